"""What ``predict`` can write besides classes, and the writer that the options ask for.

batches of features (B, D) -> features.npz; of patch tokens (B, N, D) -> patches.npy, patches.csv
"""

import csv
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.errors import InputError
from vitlit.evaluation.inference import (
    ALONE,
    Collector,
    Processes,
    Rows,
    are_finite,
    refuse_not_finite,
)
from vitlit.files import free_path, naming_full_disk, new_path, own_part, replacing
from vitlit.images.bad_images import print_bad_images, refuse_bad_images
from vitlit.messages import counted
from vitlit.model.features import HEADLESS_OUTPUTS, AnyFeature, Feature, PatchFeature
from vitlit.model.vit import ViT
from vitlit.prediction.multi_label import MultiLabelJsonWriter, MultiLabelWriter
from vitlit.prediction.regression import RegressionJsonWriter, RegressionWriter
from vitlit.prediction.row_file import RowFile
from vitlit.prediction.writer import JsonWriter, PredictionWriter
from vitlit.tasks.known import DEFAULT_TASK
from vitlit.tasks.task import Task, TaskName

FEATURES_FILE, PATCHES_FILE = "features.npz", "patches.npy"
FORMATS = {".npz", ".npy", ".csv", ".tsv", ".json", ".jsonl", ".txt", ".parquet", ".pt"}
WRITERS: dict[tuple[TaskName, str], Callable[..., PredictionWriter]] = {  # by task and output
    ("single_label", "probabilities"): PredictionWriter,
    ("single_label", "json"): JsonWriter,
    ("multi_label", "probabilities"): MultiLabelWriter,
    ("multi_label", "json"): MultiLabelJsonWriter,
    ("regression", "probabilities"): RegressionWriter,
    ("regression", "json"): RegressionJsonWriter,
}


def feature_of(settings: Any, model: ViT) -> AnyFeature | None:
    """The feature that the options ask for; None for probabilities."""
    if settings["output"] == "features":
        feature = Feature(settings["layer"], settings["pool"])
        feature.check(model)
        return feature
    if settings["output"] == "patches":
        if settings["pool"] is not None:
            raise InputError(
                "pool makes one vector of an image's patches, and output patches has all of them; "
                "leave out pool, or give output features",
                argument=("pool", "output"),
            )
        tokens = PatchFeature(settings["layer"])
        tokens.check(model)
        return tokens
    if settings["layer"] is not None or settings["pool"] is not None:  # would have no effect
        raise InputError(
            "layer and pool choose among features; give output features too",
            argument=("layer", "pool", "output"),
        )
    return None


def make_writer(
    settings: Any, class_names: list[str], task: Task | None = None
) -> PredictionWriter:
    """The writer of what the options ask for. task: that of the model, by default one class."""
    out, output = settings["out"], settings["output"]
    options = {"top": settings["top_k"], "abstain_below": settings["abstain_below"]}
    if options["top"] < 1:
        raise InputError(f"top_k {options['top']} is too small; give 1 or more", argument="top_k")
    if not 0 <= options["abstain_below"] <= 1:
        raise InputError(
            f"abstain_below {options['abstain_below']} is not a probability; give 0 to 1",
            argument="abstain_below",
        )
    if output in HEADLESS_OUTPUTS and options != {"top": 5, "abstain_below": 0.0}:
        raise InputError(
            f"top_k and abstain_below choose among classes, which {output} have none of; leave "
            f"them out",
            argument=("top_k", "abstain_below", "output"),
        )
    match output:
        case "features":
            return FeatureWriter(out)
        case "patches":
            return PatchWriter(out)
    if task is None or task.name == DEFAULT_TASK:
        return WRITERS[DEFAULT_TASK, output](out, class_names, **options)
    if options["abstain_below"]:
        task.require("abstain_below", argument="abstain_below")
    return WRITERS[task.name, output](out, class_names, task=task, **options)


def _check_ending(out: str | None, usual: str, output: str) -> None:
    """Refuse a name that says another format than the one that is written."""
    kind = Path(usual).suffix
    if out is not None and Path(out).suffix.lower() in FORMATS - {kind}:
        raise InputError(
            f"out {out}: output {output} writes arrays of NumPy; end it in {kind}",
            argument="out",
        )


class FeatureWriter(PredictionWriter):
    """Writes features.npz: float32 ``(n, D)`` and the names of their files, in the order given."""

    noun = "features"

    def __init__(self, out: str | None) -> None:
        _check_ending(out, FEATURES_FILE, "features")
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
        print(f"{counted(len(rows.sample), 'image')} of {rows.values.shape[1]} features")
        print_bad_images(bad, len(rows.sample))
        lost = rows.sample[~are_finite(rows.values)].tolist()
        refuse_not_finite([files[place] for place in lost], len(rows.sample), self.path)

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


class PatchWriter(PredictionWriter):
    """Writes patches.npy, float32 ``(n, N, D)``, batch by batch, and patches.csv beside it.

    ``np.load("patches.npy", mmap_mode="r")`` reads any image's tokens without the others. The table
    has the columns file, row (in the array) and error. In one process only: rows come in order.
    """

    noun = "patch tokens"

    def __init__(self, out: str | None) -> None:
        _check_ending(out, PATCHES_FILE, "patches")
        super().__init__(out or str(free_path(Path(PATCHES_FILE))), [])
        self.table = self.path.with_suffix(".csv")
        new_path(str(self.table))
        self._part = own_part(self.path)  # until it is complete
        self._rows: RowFile | None = None
        self._places: list[int] = []
        self._lost: list[int] = []  # of images whose tokens are not finite
        self._shape: tuple[int, ...] = ()

    def check_several_processes(self) -> None:
        raise InputError(
            "output patches is written by one process, in the order of the images; give devices 1",
            argument="output",
        )

    def add(self, outputs: Tensor, batch: Batch) -> None:
        with naming_full_disk(self.path):
            if self._rows is None:
                self._rows = RowFile(self._part)
            tokens = outputs[batch.valid.to(outputs.device)]
            self._rows.add(tokens)
        self._shape = tuple(outputs.shape[1:])
        places = batch.sample[batch.valid.cpu()]
        self._places += places.tolist()
        self._lost += places[~are_finite(tokens).cpu()].tolist()
        self._bad += batch.bad

    def finish(self, files: list[str], processes: Processes = ALONE) -> None:
        bad = self._bad_files(files, 1)
        if not self._places:
            self.abandon()
            refuse_bad_images(bad, len(bad), "fix them, or give other images", argument="images")
        self._write_so_far(files)
        tokens, width = self._shape
        print(f"{counted(len(self._places), 'image')} of {tokens} patch tokens of {width} numbers")
        print_bad_images(bad, len(self._places))
        refuse_not_finite([files[place] for place in self._lost], len(self._places), self.path)

    def _write_so_far(self, files: list[str]) -> int:
        if self._rows is None or not self._places:
            self.abandon()
            return 0
        reasons = {file.place: file.reason for file in self._bad_files(files, 1)}
        rows = {place: row for row, place in enumerate(self._places)}
        self.path = free_path(self.path)  # another command may have written files of these names
        self.table = free_path(self.path.with_suffix(".csv"))
        try:
            self._write_both(files, rows, reasons)
        except BaseException:
            self.abandon()
            raise
        return len(rows) + len(reasons)

    def _write_both(self, files: list[str], rows: dict[int, int], reasons: dict[int, str]) -> None:
        assert self._rows is not None
        named = replacing(self.table, part=own_part(self.table))
        with naming_full_disk(self.path), named as part:
            with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.writer(file)
                writer.writerow(["file", "row", "error"])
                for place in sorted(rows.keys() | reasons.keys()):
                    writer.writerow([files[place], rows.get(place, ""), reasons.get(place, "")])
            self._rows.close()
            self._part.replace(self.path)

    def abandon(self) -> None:
        if self._rows is not None:
            with suppress(OSError):  # on a full disk closing fails too
                self._rows.close()
            self._part.unlink(missing_ok=True)
