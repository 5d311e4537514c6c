"""A callback that keeps each step's loss, and writes it to a file per rank where asked."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

# words of a training that writes its losses to the folder in which it runs
RECORDED = [
    "--trainer.callbacks=[{class_path: recorder.LossRecorder, init_args: {folder: .}}]",
    "--allow_classes_of=recorder",
]


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


def losses_in(folder: Path, world: int) -> torch.Tensor:
    """The mean loss of each step over the processes that trained in a folder."""
    files = sorted(folder.glob("losses-*.json"))
    assert len(files) == world
    return torch.stack([torch.tensor(json.loads(file.read_text())) for file in files]).mean(dim=0)
