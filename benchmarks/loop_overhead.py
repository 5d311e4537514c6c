"""Time a step of `vitlit fit` against a bare loop over the same batches with the same model.

`vitlit fit` runs as the command line builds it: Lightning, TensorBoard, loss and rate logged every
50 steps, top-1 and top-5 accuracy, the progress bar. A callback stops it after every block of steps
and lets the bare loop run one, so both meet the same noise. The model is small on purpose.

    python benchmarks/loop_overhead.py --quick    # under a minute, too short to keep
    python benchmarks/loop_overhead.py --write    # replaces its device's part of loop_overhead.md
    python benchmarks/loop_overhead.py --profile  # where the time goes, by function
"""

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

import measure
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from measure import Cell
from torch import nn

from vitlit.cli import VitCLI
from vitlit.datamodule import ImageData
from vitlit.sampler import Batch
from vitlit.splits import Split
from vitlit.vit import ViT

RECIPE = [
    "fit",
    "--config",
    "digits.yaml",
    "--trainer.log_every_n_steps=50",
    "--data.crop_padding=1",
]
NOTE = """digits.yaml's model, epochs of a thousand batches of 64; the reference is the bare loop:
gather, transfer, crop, normalise, patchify, forward, loss, backward, AdamW. Each round is a block
of steps.
"""


def endless(data: ImageData, device: torch.device) -> Iterator[Batch]:
    """The batches of a bare loop, made by the same loader and the same transform."""
    epoch = 0
    while True:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            moved = data.transfer_batch_to_device(batch, device, 0)
            yield data.transform(moved, augment=True)
        epoch += 1


class BareLoop:
    """The same training without Lightning."""

    def __init__(self, model: nn.Module, data: ImageData, device: torch.device) -> None:
        self.model = model.to(device).train()
        self.batches = endless(data, device)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            batch = next(self.batches)
            self.optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(self.model(batch.x), batch.y).backward()
            self.optimizer.step()


class TakeTurns(pl.Callback):
    """Times a block of the trainer's steps, then a block of the bare loop's, and so on."""

    def __init__(self, block: int, warmup: int) -> None:
        self.block, self.warmup = block, warmup
        self.seconds: measure.Seconds = {"bare loop": [], "vitlit fit": []}
        self.blocks = self.steps = 0
        self.bare: BareLoop | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """An epoch of a thousand steps, as real data sets have; the digits make 20."""
        splits = trainer.datamodule.splits  # type: ignore[attr-defined]
        splits["train"] = Split(splits["train"].images, splits["train"].members.repeat(50))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        hp = pl_module.hparams
        names = ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth")
        names += ("num_heads", "patch_embed", "pos_embed", "global_pool")
        model = ViT(**{name: hp[name] for name in names})
        self.bare = BareLoop(model, trainer.datamodule, pl_module.device)  # type: ignore[attr-defined]

    def on_train_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.steps += 1
        if self.steps % self.block:
            return
        device = str(trainer.strategy.root_device.type)
        measure.wait(device)
        own = time.perf_counter() - self.start
        start = time.perf_counter()
        assert self.bare is not None
        self.bare.run(self.block)
        measure.wait(device)
        if self.blocks >= self.warmup:
            self.seconds["vitlit fit"].append(own)
            self.seconds["bare loop"].append(time.perf_counter() - start)
        self.blocks += 1
        self.start = time.perf_counter()


class Cli(VitCLI):
    """The command line with one more callback, the last to be called."""

    turns: TakeTurns | None = None

    def _callbacks(self, *args: Any) -> list[pl.Callback]:
        found = super()._callbacks(*args)
        return found if self.turns is None else [*found, self.turns]


def fit(turns: TakeTurns | None, blocks: int, block: int, device: str) -> None:
    """Training alone, without validation and checkpoints."""
    Cli.turns = turns
    accelerator = "gpu" if device == "cuda" else "cpu"
    options = [f"--trainer.max_steps={blocks * block}", "--trainer.max_epochs=-1"]
    options += ["--trainer.limit_val_batches=0", f"--trainer.accelerator={accelerator}"]
    options += ["--trainer.enable_checkpointing=false", "--trainer.precision=32-true"]
    options += ["--data.batch_size=64", "--trainer.enable_model_summary=false"]
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(None):
        os.chdir(folder)
        try:
            Cli([*RECIPE, *options])
        finally:
            os.chdir(before)


def profile(args: argparse.Namespace) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    fit(TakeTurns(10**9, 0), 5, args.block, args.device)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = measure.parser(__doc__, rounds=15, warmup=2)
    parser.add_argument("--block", type=int, default=200, help="steps of one round")
    parser.add_argument("--profile", action="store_true", help="print the 25 costliest functions")
    args = parser.parse_args()
    measure.check(args, parser)
    if args.quick:
        args.rounds, args.warmup, args.block = 3, 1, 50
    if args.profile:
        profile(args)
        return
    turns = TakeTurns(args.block, args.warmup)
    fit(turns, args.rounds + args.warmup, args.block, args.device)
    cell = Cell("a step of digits.yaml", turns.seconds, "bare loop", args.block, "steps")
    per_step = {name: median(own) / args.block for name, own in turns.seconds.items()}
    gaps = [
        1e3 * (own - bare) / args.block
        for own, bare in zip(turns.seconds["vitlit fit"], turns.seconds["bare loop"], strict=True)
    ]
    cell.extra["ms per step"] = {name: f"{1e3 * value:.2f}" for name, value in per_step.items()}
    cell.extra["over the bare loop, ms"] = {"vitlit fit": f"{median(gaps):.2f}"}
    measure.report(args, __file__, [cell], NOTE)


if __name__ == "__main__":
    main()
