"""Writes predictions: a table, or JSON Lines, of the most probable classes.

batches of probabilities (B, K) -> one row for each image, in the order given
"""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.errors import InputError, Stopped
from vitlit.evaluation.inference import ALONE, NOT_FINITE, Processes, refuse_not_finite
from vitlit.files import free_path, named_or_free, naming_full_disk, own_part, printable, replacing
from vitlit.images.bad_images import print_bad_images, refuse_bad_images
from vitlit.images.image_store import BadFile

PREDICTIONS_FILE, JSON_FILE = "predictions.csv", "predictions.jsonl"
PRINTED_ROWS = 10  # predictions that are printed; the file has all of them


class Entry(NamedTuple):
    """What was found in one image: its most probable classes, or why it has none."""

    file: str
    classes: list[str]
    values: list[float]
    error: str = ""


class PredictionWriter:
    """Writes predictions.csv: one row for each image, in the order they were given.

    Columns: file, class, probability, top5 (``name:probability`` joined by semicolons), error: why
    there is no answer, and then the others are empty. out: another path; an existing file or a
    folder that cannot be written to is refused before anything is computed. top: classes that are
    listed, which name the column; abstain_below: no class is given if its probability is lower. A
    signal that ends the command leaves the rows so far.
    """

    noun = "predictions"  # what the file holds

    def __init__(
        self,
        out: str | None,
        class_names: list[str],
        *,
        top: int = 5,
        abstain_below: float = 0.0,
    ) -> None:
        self.class_names, self.top, self.abstain_below = class_names, top, abstain_below
        self.header = ["file", "class", "probability", f"top{top}", "error"]
        self.path = named_or_free(out, PREDICTIONS_FILE)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the folder of {self.path}: {error.strerror}; give another place",
                argument="out",
            ) from error
        if not os.access(self.path.parent, os.W_OK):
            raise InputError(
                f"cannot write into {self.path.parent.absolute()}; give another file",
                argument="out",
            )
        self._found: list[tuple[int, list[float], list[int]]] = []
        self._bad: list[tuple[int, str]] = []

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Take what was computed for a batch."""
        # only the first ones are kept: all probabilities of a large folder would fill the memory
        # not topk, which of equal ones takes any; scores take the first, as argmax
        values, classes = outputs.sort(dim=1, descending=True, stable=True)
        rows = zip(
            batch.sample.tolist(),
            batch.valid.tolist(),
            values[:, : self.top].tolist(),
            classes[:, : self.top].tolist(),
            strict=True,
        )
        self._found += [(i, values, classes) for i, valid, values, classes in rows if valid]
        self._bad += batch.bad

    def finish(self, files: list[str], processes: Processes = ALONE) -> None:
        """Write all rows, and print the first ones. Every process calls it; the first one writes.

        files: the paths of all images.
        """
        found = sorted(gather_lists(self._found, processes.world))  # by place: the order given
        bad = self._bad_files(files, processes.world)
        lost = _not_finite(files, found)
        if processes.is_first:  # only here: gathering needs every process
            rows = self._write(files, found, [*bad, *lost])
        if not found:
            way_out = f"fix them, or give other images; wrote these names to {self.path}"
            refuse_bad_images(bad, len(bad), way_out, argument="images")
        if not processes.is_first:
            return
        if rows:
            self._show(rows)
        print_bad_images(bad, len(found))
        refuse_not_finite([file.path for file in lost], len(found), self.path)

    def stop(self, stopped: Stopped, files: list[str], rank: int | None = None) -> None:
        """Write what is done when a signal ends the command, and let it say so.

        rank: of this process, None if it is the only one. The signal stops each process at another
        batch, so none can gather: each writes its own rows.
        """
        if rank is not None:
            self.path = free_path(self.path.with_stem(f"{self.path.stem}-process-{rank}"))
        if count := self._write_so_far(files):
            stopped.where = (
                f"after {count} of {len(files)} images; wrote the {self.noun} of these to "
                f"{self.path}"
            )

    def check_several_processes(self) -> None:
        """Raise InputError if the file cannot be written by several processes."""

    def abandon(self) -> None:
        """Leave nothing unfinished after an error; what is written at the end leaves nothing."""

    def _write_so_far(self, files: list[str]) -> int:
        """Write the rows that are known; returns their number."""
        if not (self._found or self._bad):  # perhaps even the files are not known yet
            return 0
        bad = self._bad_files(files, 1)
        self._write(files, sorted(self._found), [*bad, *_not_finite(files, self._found)])
        return len(self._found) + len(bad)

    def _write(
        self,
        files: list[str],
        found: list[tuple[int, list[float], list[int]]],
        without_answer: list[BadFile],
    ) -> list[Entry]:
        """Write the file, if there is any row; returns the entries of images with an answer."""
        reasons = {file.place: Entry(file.path, [], [], file.reason) for file in without_answer}
        good = {
            i: Entry(files[i], [self.class_names[k] for k in classes], values)
            for i, values, classes in found
            if i not in reasons
        }
        entries = good | reasons
        if entries:
            with self._writing() as part:
                self._write_entries(part, [entries[place] for place in sorted(entries)])
        return list(good.values())

    def _write_entries(self, path: Path, entries: list[Entry]) -> None:
        # surrogateescape: names that are not UTF-8 are written as they are on disk
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(self.header)
            writer.writerows(map(self._row, entries))

    def abstains(self, entry: Entry) -> bool:
        """Whether the most probable class is not probable enough to be given."""
        return entry.values[0] < self.abstain_below

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """Yield a path to write to, whose file becomes that of the command when it is complete.

        It gets another name if another command has written a file of this name meanwhile.
        """
        self.path = free_path(self.path)
        with replacing(self.path, part=own_part(self.path)) as part, naming_full_disk(self.path):
            yield part

    def _bad_files(self, files: list[str], world: int) -> list[BadFile]:
        """The files that could not be read, of all processes."""
        # a dict: a row that fills up a batch reports its file a second time
        reasons = dict(gather_lists(self._bad, world))
        return [BadFile(i, files[i], reasons[i]) for i in sorted(reasons)]

    def _row(self, entry: Entry) -> list[str]:
        if entry.error:
            return [entry.file, "", "", "", entry.error]
        pairs = zip(entry.classes, entry.values, strict=True)
        top = ";".join(f"{name}:{value:.4f}" for name, value in pairs)
        name = "" if self.abstains(entry) else entry.classes[0]
        return [entry.file, name, f"{entry.values[0]:.4f}", top, ""]

    def _show(self, entries: list[Entry]) -> None:
        names = [printable(entry.file) for entry in entries[:PRINTED_ROWS]]
        width = max(map(len, names))
        for file, entry in zip(names, entries, strict=False):
            best = printable(entry.classes[0])
            name = f"none (perhaps {best})" if self.abstains(entry) else best
            print(f"{file:{width}}  {entry.values[0]:.4f}  {name}")
        if len(entries) > PRINTED_ROWS:
            print(f"… and {len(entries) - PRINTED_ROWS} more")
        if self.abstain_below:
            count = sum(map(self.abstains, entries))
            limit = f"probability below {self.abstain_below:g}"
            print(f"no class for {count} of {len(entries)} images: {limit}")


class JsonWriter(PredictionWriter):
    """Writes predictions.jsonl, JSON Lines: one object for each image, in the order given.

    Its keys: file; class, null if none is probable enough; probability; top, the most probable
    classes, each with class and probability. One that cannot be read has file and error alone.
    """

    def __init__(self, out: str | None, class_names: list[str], **options: Any) -> None:
        super().__init__(out or str(free_path(Path(JSON_FILE))), class_names, **options)

    def _write_entries(self, path: Path, entries: list[Entry]) -> None:
        # bytes of a name that are not UTF-8 become JSON's own escapes
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for entry in entries:
                file.write(json.dumps(self._object(entry), ensure_ascii=False) + "\n")

    def _object(self, entry: Entry) -> dict[str, Any]:
        if entry.error:
            return {"file": entry.file, "error": entry.error}
        pairs = zip(entry.classes, entry.values, strict=True)
        return {
            "file": entry.file,
            "class": None if self.abstains(entry) else entry.classes[0],
            "probability": entry.values[0],
            "top": [{"class": name, "probability": value} for name, value in pairs],
        }


def _not_finite(files: list[str], found: list[tuple[int, list[float], list[int]]]) -> list[BadFile]:
    """The images whose answer is not a finite number."""
    return [
        BadFile(i, files[i], NOT_FINITE) for i, values, _ in found if not all(map(isfinite, values))
    ]


def gather_lists(mine: list[Any], world: int) -> list[Any]:
    """The lists of all processes in one."""
    if world == 1:
        return mine
    lists: list[Any] = [None] * world
    torch.distributed.all_gather_object(lists, mine)
    return [item for items in lists for item in items]
