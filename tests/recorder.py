"""A callback for runs in other processes: writes each step's loss to a file per rank."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class LossRecorder(pl.Callback):
    """Writes losses-RANK.json, the loss of every training step, into a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.losses: list[float] = []

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.losses.append(outputs["loss"].item())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        path = Path(self.folder) / f"losses-{trainer.global_rank}.json"
        path.write_text(json.dumps(self.losses))
