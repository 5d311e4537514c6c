"""Trainings for ``gpu_parts.py``, which need no file: cifar10.yaml on random images, and digits.

small or not -> name of a variant, seconds of each epoch, images of an epoch
folder -> a process that trains there, and the weights that it leaves
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from vitlit.commands.with_lightning import VitCLI
from vitlit.data.splits import Split
from vitlit.images.image_store import MemoryImages
from vitlit.training.classifier import ImageData
from vitlit.training.runs import Claim

FIT = ["fit", "--config", "cifar10.yaml", "--trainer.max_epochs=4"]
FIT += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = ["--data.batch_size=8", "--model.depth=1", "--model.embed_dim=12"]
# of the digits, in processes of their own
DIGITS = ["--config=digits.yaml", "--trainer.deterministic=true", "--trainer.max_epochs=20"]
DIGITS += ["--trainer.enable_progress_bar=false", "--checkpoints.every_n_steps=5", "--run=own"]
VARIANTS = {
    "EMA and checkpoints": (),
    "no EMA": ("--ema.decay=0",),
    "no EMA, no checkpoints": ("--ema.decay=0", "--trainer.enable_checkpointing=false"),
    "compiled": ("--model.compile=true",),
}


class RandomImages(ImageData):
    """As many images as CIFAR-10 has, of its size, with random pixels."""

    count = 50_000

    def prepare_data(self) -> None: ...

    def setup(self, stage: str) -> None:
        self.augmentation = self.augmentation.of_run(self.trainer.max_epochs)
        draw = torch.Generator().manual_seed(0)
        for name, count in (("train", self.count), ("val", self.count // 10)):
            pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
            images = MemoryImages(pixels, torch.arange(count) % 10)
            self.splits[name] = Split(images, torch.arange(count))


class Clock(pl.Callback):
    """The time from each training epoch's end to the next: validation and checkpoints count."""

    def __init__(self) -> None:
        self.ends = [time.perf_counter()]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ends = [time.perf_counter()]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]


class Cli(VitCLI):
    """The command line, with random images and a clock."""

    clock: Clock

    def before_fit(self) -> None:
        self.datamodule.__class__ = RandomImages
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks.append(self.clock)


def four_epochs(small: bool) -> Iterator[tuple[str, list[float], int]]:
    """Each variant in turn. Compiling is tried on a GPU alone: a CPU may have no C++ compiler."""
    RandomImages.count = 160 if small else 50_000
    before = Path.cwd()
    for name, options in VARIANTS.items():
        if name == "compiled" and not torch.cuda.is_available():
            continue
        Cli.clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                with Claim() as claim:
                    Cli([*FIT, *(SMALL if small else []), *options], claim)
            finally:
                os.chdir(before)
        yield name, Cli.clock.seconds, RandomImages.count


def vitlit(folder: Path, *args: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # for equal bits
    command = [sys.executable, "-m", "vitlit", *args]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True)


def fit_in(folder: Path, small: bool) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    tiny = ["--model.embed_dim=12", "--model.depth=1", "--trainer.max_epochs=2"] if small else []
    return vitlit(folder, "fit", *DIGITS, *tiny)


def last_of(folder: Path) -> Path:
    return folder / "lightning_logs" / "own" / "checkpoints" / "last.ckpt"


def weights_of(folder: Path) -> dict[str, Tensor]:
    return torch.load(last_of(folder), map_location="cpu", weights_only=True)["state_dict"]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(map(torch.equal, first.values(), second.values()))
