"""Writes what `predict` computes: predictions.csv, or the features of the images, features.npz.

batches of probabilities (B, K) or features (B, D) -> one row for each image, in the order given
"""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.errors import InputError, Stopped
from vitlit.evaluation.inference import ALONE, Collector, Processes, Rows
from vitlit.files import free_path, named_or_free, naming_full_disk, printable, replacing
from vitlit.images.bad_images import print_bad_images, refuse_bad_images
from vitlit.images.image_store import BadFile
from vitlit.model.features import Feature
from vitlit.model.vit import ViT

PREDICTIONS_FILE, FEATURES_FILE = "predictions.csv", "features.npz"
PRINTED_ROWS = 10  # predictions that are printed; the file has all of them


class PredictionWriter:
    """Writes predictions.csv: one row for each image, in the order they were given.

    Columns: file, class, probability, top5 (``name:probability`` joined by semicolons), error: why
    the file cannot be read, and then the others are empty. out: another path; an existing file or a
    folder that cannot be written to is refused before anything is computed. A signal that ends the
    command leaves the rows so far.
    """

    noun = "predictions"  # what the file holds

    def __init__(self, out: str | None, class_names: list[str]) -> None:
        self.class_names = class_names
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
        # only the top five are kept: all probabilities of a large folder would fill the memory
        top = outputs.topk(min(5, outputs.shape[1]), dim=1)
        rows = zip(
            batch.sample.tolist(),
            batch.valid.tolist(),
            top.values.tolist(),
            top.indices.tolist(),
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
        if processes.is_first:  # only here: gathering needs every process
            rows = self._write(files, found, bad)
        if not found:
            way_out = f"fix them, or give other images; wrote these names to {self.path}"
            refuse_bad_images(bad, len(bad), way_out, argument="images")
        if not processes.is_first:
            return
        self._show(rows)
        print_bad_images(bad, len(rows))

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

    def _write_so_far(self, files: list[str]) -> int:
        """Write the rows that are known; returns their number."""
        if not (self._found or self._bad):  # perhaps even the files are not known yet
            return 0
        bad = self._bad_files(files, 1)
        self._write(files, sorted(self._found), bad)
        return len(self._found) + len(bad)

    def _write(
        self,
        files: list[str],
        found: list[tuple[int, list[float], list[int]]],
        bad: list[BadFile],
    ) -> list[list[str]]:
        """Write the table, if there is any row; returns the rows of the images that were read."""
        good = {i: self._row(files[i], values, classes) for i, values, classes in found}
        rows = good | {file.place: [file.path, "", "", "", file.reason] for file in bad}
        if rows:
            # surrogateescape: names that are not UTF-8 are written as they are on disk
            options: Any = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
            with self._writing() as part, part.open("w", **options) as file:
                writer = csv.writer(file)
                writer.writerow(["file", "class", "probability", "top5", "error"])
                writer.writerows(rows[place] for place in sorted(rows))
        return list(good.values())

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """Yield a path to write to, whose file becomes that of the command when it is complete."""
        with replacing(self.path) as part, naming_full_disk(self.path):
            yield part

    def _bad_files(self, files: list[str], world: int) -> list[BadFile]:
        """The files that could not be read, of all processes."""
        # a dict: a row that fills up a batch reports its file a second time
        reasons = dict(gather_lists(self._bad, world))
        return [BadFile(i, files[i], reasons[i]) for i in sorted(reasons)]

    def _row(self, file: str, values: list[float], classes: list[int]) -> list[str]:
        names = [self.class_names[i] for i in classes]
        top5 = ";".join(f"{name}:{value:.4f}" for name, value in zip(names, values, strict=True))
        return [file, names[0], f"{values[0]:.4f}", top5, ""]

    def _show(self, rows: list[list[str]]) -> None:
        names = [printable(row[0]) for row in rows[:PRINTED_ROWS]]
        width = max(map(len, names))
        for file, (_, name, probability, *_) in zip(names, rows, strict=False):
            print(f"{file:{width}}  {probability}  {name}")
        if len(rows) > PRINTED_ROWS:
            print(f"… and {len(rows) - PRINTED_ROWS} more")


def gather_lists(mine: list[Any], world: int) -> list[Any]:
    """The lists of all processes in one."""
    if world == 1:
        return mine
    lists: list[Any] = [None] * world
    torch.distributed.all_gather_object(lists, mine)
    return [item for items in lists for item in items]


def feature_of(settings: Any, model: ViT) -> Feature | None:
    """The feature that the options ask for; None for probabilities."""
    if settings["output"] == "features":
        feature = Feature(settings["layer"], settings["pool"])
        feature.check(model)
        return feature
    if settings["layer"] is not None or settings["pool"] is not None:  # would have no effect
        raise InputError(
            "layer and pool choose among features; give output features too",
            argument=("layer", "pool", "output"),
        )
    return None


def make_writer(settings: Any, class_names: list[str]) -> PredictionWriter:
    """The writer of what the options ask for."""
    if settings["output"] == "features":
        return FeatureWriter(settings["out"])
    return PredictionWriter(settings["out"], class_names)


class FeatureWriter(PredictionWriter):
    """Writes features.npz: float32 ``(n, D)`` and the names of their files, in the order given."""

    noun = "features"

    def __init__(self, out: str | None) -> None:
        super().__init__(out or str(free_path(Path(FEATURES_FILE))), [])
        self._rows = Collector()

    def add(self, outputs: Tensor, batch: Batch) -> None:
        self._rows.add(outputs, batch)
        self._bad += batch.bad

    def finish(self, files: list[str], processes: Processes = ALONE) -> None:
        rows = self._rows.rows(processes.gather)
        bad = self._bad_files(files, processes.world)
        if not len(rows.sample):
            way_out = "fix them, or give other images"
            refuse_bad_images(bad, len(bad), way_out, argument="images")
        if not processes.is_first:
            return
        self._write_rows(files, rows)
        print(f"{len(rows.sample)} features of {rows.values.shape[1]} numbers")
        print_bad_images(bad, len(rows.sample))

    def _write_so_far(self, files: list[str]) -> int:
        if not self._rows:
            return 0
        rows = self._rows.rows()
        self._write_rows(files, rows)
        return len(rows.sample)

    def _write_rows(self, files: list[str], rows: Rows) -> None:
        names = np.array([files[i] for i in rows.sample.tolist()])
        # by handle: savez would add .npz to another ending
        with self._writing() as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, features=rows.values.numpy(), files=names)
