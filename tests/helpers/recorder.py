"""A callback that keeps each step's loss, and writes it to a file per rank where asked."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class LossRecorder(pl.Callback):
    """``losses`` of every training step; with a folder, also losses-RANK.json in it."""

    def __init__(self, folder: str | None = None) -> None:
        super().__init__()
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
        if self.folder is not None:
            path = Path(self.folder) / f"losses-{trainer.global_rank}.json"
            path.write_text(json.dumps(self.losses))
