"""Writes the numbers of images, in the unit of the column that they were learned from.

batches of answers (B, 1) -> one row for each image, in the order given
"""

from typing import Any

from vitlit.errors import InputError
from vitlit.files import printable
from vitlit.prediction.writer import PRINTED_ROWS, Entry, JsonWriter, PredictionWriter
from vitlit.tasks.regression import Regression

DEFAULT_TOP = 5  # of the option top_k


class RegressionWriter(PredictionWriter):
    """Writes predictions.csv: one row for each image, in the order they were given.

    Columns: file; the number, under the name of its column; error.
    """

    def __init__(
        self, out: str | None, class_names: list[str], *, task: Regression, **options: Any
    ) -> None:
        if options.pop("top", DEFAULT_TOP) != DEFAULT_TOP:
            raise InputError(
                "top_k lists classes, and regression gives one number; leave it out",
                argument="top_k",
            )
        super().__init__(out, class_names, top=1, **options)
        self.name = class_names[0]
        self.header = ["file", self.name, "error"]

    def _row(self, entry: Entry) -> list[str]:
        if entry.error:
            return [entry.file, "", entry.error]
        return [entry.file, f"{entry.values[0]:.7g}", ""]

    def _show(self, entries: list[Entry]) -> None:
        names = [printable(entry.file) for entry in entries[:PRINTED_ROWS]]
        width = max(map(len, names))
        for file, entry in zip(names, entries, strict=False):
            print(f"{file:{width}}  {printable(self.name)} {entry.values[0]:.6g}")
        if len(entries) > PRINTED_ROWS:
            print(f"… and {len(entries) - PRINTED_ROWS} more")


class RegressionJsonWriter(RegressionWriter, JsonWriter):
    """Writes predictions.jsonl, JSON Lines: one object for each image, in the order given.

    Its keys: file; target, the name of the column; value, the number. One that cannot be read has
    file and error alone.
    """

    def _object(self, entry: Entry) -> dict[str, Any]:
        if entry.error:
            return {"file": entry.file, "error": entry.error}
        return {"file": entry.file, "target": self.name, "value": entry.values[0]}
