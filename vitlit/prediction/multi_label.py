"""Writes which classes images have, of models that may give an image several.

batches of probabilities (B, K) -> one row for each image, in the order given
"""

from typing import Any

from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.files import printable
from vitlit.prediction.writer import PRINTED_ROWS, Entry, JsonWriter, PredictionWriter
from vitlit.tasks.multi_label import MultiLabel


class MultiLabelWriter(PredictionWriter):
    """Writes predictions.csv: one row for each image, in the order they were given.

    Columns: file; classes, those above their thresholds, the most probable first, joined by
    semicolons; probabilities of these; top5, as in :class:`PredictionWriter`; error.
    """

    def __init__(
        self, out: str | None, class_names: list[str], *, task: MultiLabel, **options: Any
    ) -> None:
        super().__init__(out, class_names, **options)
        self._cuts = task.thresholds(len(class_names))
        self._thresholds = dict(zip(class_names, self._cuts.tolist(), strict=True))
        self.header = ["file", "classes", "probabilities", f"top{self.top}", "error"]

    def add(self, outputs: Tensor, batch: Batch) -> None:
        ranked = outputs.sort(dim=1, descending=True, stable=True)
        self._cuts = self._cuts.to(outputs.device)
        is_kept = ranked.values > self._cuts[ranked.indices]
        is_kept[:, : self.top] = True  # the first ones too, and no others: they would fill memory
        values, classes, kept = (one.cpu() for one in (ranked.values, ranked.indices, is_kept))
        for row, place in enumerate(batch.sample.tolist()):
            if batch.valid[row]:
                own = kept[row]
                self._found.append((place, values[row, own].tolist(), classes[row, own].tolist()))
        self._bad += batch.bad

    def given(self, entry: Entry) -> dict[str, float]:
        """The classes of an image above their thresholds, with their probabilities."""
        pairs = zip(entry.classes, entry.values, strict=True)
        return {name: value for name, value in pairs if value > self._thresholds[name]}

    def _row(self, entry: Entry) -> list[str]:
        if entry.error:
            return [entry.file, "", "", "", entry.error]
        given = self.given(entry)
        pairs = list(zip(entry.classes, entry.values, strict=True))[: self.top]
        top = ";".join(f"{name}:{value:.4f}" for name, value in pairs)
        return [entry.file, ";".join(given), ";".join(f"{p:.4f}" for p in given.values()), top, ""]

    def _show(self, entries: list[Entry]) -> None:
        names = [printable(entry.file) for entry in entries[:PRINTED_ROWS]]
        width = max(map(len, names))
        for file, entry in zip(names, entries, strict=False):
            given = [f"{printable(name)} {value:.4f}" for name, value in self.given(entry).items()]
            print(f"{file:{width}}  {', '.join(given) or 'no class'}")
        if len(entries) > PRINTED_ROWS:
            print(f"… and {len(entries) - PRINTED_ROWS} more")


class MultiLabelJsonWriter(MultiLabelWriter, JsonWriter):
    """Writes predictions.jsonl, JSON Lines: one object for each image, in the order given.

    Its keys: file; classes, those above their thresholds, and top, the most probable ones, each
    with class and probability. One that cannot be read has file and error alone.
    """

    def _object(self, entry: Entry) -> dict[str, Any]:
        if entry.error:
            return {"file": entry.file, "error": entry.error}
        pairs = list(zip(entry.classes, entry.values, strict=True))[: self.top]
        return {
            "file": entry.file,
            "classes": [_pair(*one) for one in self.given(entry).items()],
            "top": [_pair(*one) for one in pairs],
        }


def _pair(name: str, probability: float) -> dict[str, Any]:
    return {"class": name, "probability": probability}
