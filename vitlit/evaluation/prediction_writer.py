"""Writes what `predict` computes: predictions.csv, or the features of the images, features.npz.

batches of probabilities (B, K) or features (B, D) -> one row for each image, in the order given
"""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from vitlit.data.batch import Batch
from vitlit.errors import InputError
from vitlit.evaluation.inference import Collector
from vitlit.files import free_path, printable
from vitlit.images.bad_images import print_bad_images, refuse_bad_images
from vitlit.images.image_store import BadFile
from vitlit.model.features import Feature
from vitlit.model.vit import ViT

PREDICTIONS_FILE, FEATURES_FILE = "predictions.csv", "features.npz"
PRINTED_ROWS = 10  # predictions that are printed; the file has all of them


class PredictionWriter(Callback):
    """Writes predictions.csv: one row for each image, in the order they were given.

    Columns: file, class, probability, top5 (``name:probability`` joined by semicolons). Files
    that cannot be read have no row, and are listed on the screen. out: another path; an existing
    file or a folder that cannot be written to is refused before anything is computed.
    """

    def __init__(self, out: str | None, class_names: list[str]) -> None:
        self.class_names = class_names
        if out is not None and Path(out).exists():
            raise InputError(f"{out} exists; give another name, or remove it", argument="out")
        self.path = Path(out) if out else free_path(Path(PREDICTIONS_FILE))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder of {self.path}: {error}") from error
        if not os.access(self.path.parent, os.W_OK):
            raise InputError(
                f"cannot write into {self.path.parent.absolute()}; give another file",
                argument="out",
            )
        self._found: list[tuple[int, list[float], list[int]]] = []
        self._bad: list[tuple[int, str]] = []

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
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

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = sorted(gather_lists(self._found, trainer.world_size))  # by place: the order given
        files = trainer.datamodule.files  # type: ignore[attr-defined]
        bad = self._bad_files(files, len(found), trainer.world_size)
        if not trainer.is_global_zero:  # only here: gathering needs every process
            return
        rows = [self._row(files[i], values, classes) for i, values, classes in found]
        # surrogateescape: names that are not UTF-8 are written as they are on disk
        with self.path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "class", "probability", "top5"])
            writer.writerows(rows)
        self._show(rows)
        print_bad_images(bad, len(rows))

    def _bad_files(self, files: list[str], good: int, world: int) -> list[BadFile]:
        """The files of all processes that could not be read; raises InputError if none could."""
        # a dict: a row that fills up a batch reports its file a second time
        reasons = dict(gather_lists(self._bad, world))
        bad = [BadFile(i, files[i], reasons[i]) for i in sorted(reasons)]
        if not good:
            refuse_bad_images(bad, len(bad), "fix them, or give other images", argument="images")
        return bad

    def _row(self, file: str, values: list[float], classes: list[int]) -> list[str]:
        names = [self.class_names[i] for i in classes]
        top5 = ";".join(f"{name}:{value:.4f}" for name, value in zip(names, values, strict=True))
        return [file, names[0], f"{values[0]:.4f}", top5]

    def _show(self, rows: list[list[str]]) -> None:
        names = [printable(row[0]) for row in rows[:PRINTED_ROWS]]
        width = max(map(len, names))
        for file, (_, name, probability, _) in zip(names, rows, strict=False):
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
    """The callback that writes what the options ask for."""
    if settings["output"] == "features":
        return FeatureWriter(settings["out"])
    return PredictionWriter(settings["out"], class_names)


class FeatureWriter(PredictionWriter):
    """Writes features.npz: float32 ``(n, D)`` and the names of their files, in the order given."""

    def __init__(self, out: str | None) -> None:
        super().__init__(out or str(free_path(Path(FEATURES_FILE))), [])
        self._rows = Collector()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._rows.add(outputs, batch)
        self._bad += batch.bad

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gather: Any = pl_module.all_gather if trainer.world_size > 1 else None
        rows = self._rows.rows(gather)
        files = trainer.datamodule.files  # type: ignore[attr-defined]
        bad = self._bad_files(files, len(rows.sample), trainer.world_size)
        if not trainer.is_global_zero:
            return
        names = np.array([files[i] for i in rows.sample.tolist()])
        with self.path.open("wb") as file:  # by handle: savez would add .npz to another ending
            np.savez(file, allow_pickle=False, features=rows.values.numpy(), files=names)
        print(f"{len(names)} features of {rows.values.shape[1]} numbers")
        print_bad_images(bad, len(names))
