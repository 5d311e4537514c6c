"""Predictions through Lightning, which several processes need: its hooks, for a writer."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from vitlit.data.batch import Batch
from vitlit.errors import Stopped
from vitlit.evaluation.scoring import processes_of
from vitlit.prediction.writer import PredictionWriter


class WritePredictions(Callback):
    """Hands what a Trainer predicts to a writer."""

    def __init__(self, writer: PredictionWriter) -> None:
        self.writer = writer

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            self.writer.check_several_processes()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.writer.add(outputs, batch)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.writer.finish(_files(trainer), processes_of(trainer, pl_module))

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if not isinstance(exception, Stopped):
            self.writer.abandon()
        else:
            rank = trainer.global_rank if trainer.world_size > 1 else None
            self.writer.stop(exception, _files(trainer), rank)


def _files(trainer: pl.Trainer) -> list[str]:
    """The paths of the images, none before they are known."""
    return getattr(trainer.datamodule, "files", [])  # type: ignore[attr-defined]
