"""What ``predict`` writes: predictions.csv, or the features of the images, features.npz.

batches of features (B, D) -> features (n, D), files (n,)
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl

from vitlit.data.sampler import Batch
from vitlit.errors import InputError
from vitlit.evaluation.inference import Collector
from vitlit.images.bad_images import print_bad_images
from vitlit.model.features import Feature, FeaturePool
from vitlit.model.vit import ViT
from vitlit.training.checkpoint_callbacks import PredictionWriter, free_path

FEATURES_FILE = "features.npz"


def add_predict_options(parser: Any) -> None:
    """Options of ``predict`` that Lightning's has not."""
    parser.add_argument(
        "--output",
        type=Literal["probabilities", "features"],
        default="probabilities",
        help="probabilities go to a CSV file, features to an .npz file: features (n, D), files.",
    )
    parser.add_argument(
        "--layer",
        type=int | None,
        default=None,
        help="Block whose features are written, counted from 0, or from the last: -1, -2, …; the "
        "model's last norm is applied after the last block alone.",
    )
    parser.add_argument(
        "--pool",
        type=FeaturePool | None,
        default=None,
        help="Features of the class token, or the average of the patches; the model's own way by "
        "default.",
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="File to write, not existing yet."
    )


def feature_of(settings: Any, model: ViT) -> Feature | None:
    """What the options ask for: None for probabilities."""
    if settings["output"] == "features":
        feature = Feature(settings["layer"], settings["pool"])
        feature.check(model)
        return feature
    if settings["layer"] is not None or settings["pool"] is not None:
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
    """Writes features float32 ``(n, D)`` and the names of their files, in the order given."""

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
        with self.path.open("wb") as file:
            np.savez(file, allow_pickle=False, features=rows.values.numpy(), files=names)
        print(f"{len(names)} features of {rows.values.shape[1]} numbers")
        print_bad_images(bad, len(names))
