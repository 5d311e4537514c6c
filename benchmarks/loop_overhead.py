"""Time a step of `vitlit fit` against a bare loop over the same batches with the same model.

`vitlit fit` runs as the command line builds it: Lightning, TensorBoard, loss and rate logged every
20 or 50 steps, top-1 and top-5 accuracy, the progress bar. After every block of steps it waits
while the bare loop runs one, so both meet the same noise.

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
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

import measure
import torch
import torch.nn.functional as F
from measure import Cell
from torch import nn

from vitlit import ImageData
from vitlit.commands.with_lightning import VitCLI
from vitlit.data.batch import Batch
from vitlit.data.splits import Split
from vitlit.model.vit import ViT
from vitlit.training.classifier import Classifier
from vitlit.training.optim.groups import parameter_groups
from vitlit.training.optim.schedule import schedule_factor
from vitlit.training.runs import Claim

STEPS = 10_000  # of the bare loop's schedule
TINY = ("--trainer.log_every_n_steps=50", "--data.batch_size=16", "--model.depth=1")
TINY += ("--model.embed_dim=12",)
CELLS = {  # what is compared, and its options
    "a training step of digits.yaml": (),
    "a training step of a tiny model": TINY,
    "a training step of a tiny model without logger and progress bar": (
        *TINY,
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
    ),
}
NOTE = """The recipe for the digits, and a ViT of one block, 12 wide, on batches of 16 of them, in
epochs thirteen times as long. The reference is a bare loop of the same training: gather,
transfer, crop, normalise, patchify, forward, the same loss, backward, AdamW with the same groups
of parameters, the same schedule. It counts, logs and guards nothing. Each round is a block of
steps; on one thread its seconds are of the processor.
"""


def endless(data: ImageData, device: torch.device) -> Iterator[Batch]:
    """The batches of a bare loop, made by the same loader and the same transform."""
    epoch = 0
    while True:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            moved = data.transfer_batch_to_device(batch, device, 0)
            # on a GPU that holds the set, the loader sends numbers of rows
            moved = data.resident.gather(moved, data.splits["train"])
            yield data.transform(moved, augment=True)
        epoch += 1


class BareLoop:
    """The same training without Lightning."""

    def __init__(self, model: nn.Module, hp: Any, data: ImageData, device: torch.device) -> None:
        self.model = model.to(device).train()
        self.batches = endless(data, device)
        self.smoothing = hp["label_smoothing"]
        groups = parameter_groups(model, weight_decay=hp["weight_decay"], decay=hp["decay"])
        self.optimizer = torch.optim.AdamW(groups, lr=hp["lr"], fused=True)
        factor = schedule_factor(hp["schedule"], total=STEPS, warmup=STEPS // 10, floor=0.0)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            batch = next(self.batches)
            self.optimizer.zero_grad(set_to_none=True)
            logits = self.model(batch.x)
            F.cross_entropy(logits, batch.y, label_smoothing=self.smoothing).backward()
            self.optimizer.step()
            self.scheduler.step()


class TakeTurns:
    """Times a block of the trainer's steps, then a block of the bare loop's, and so on."""

    def __init__(self, block: int, warmup: int, clock: Callable[[], float]) -> None:
        self.block, self.warmup, self.clock = block, warmup, clock
        self.seconds: measure.Seconds = {"bare loop": [], "vitlit fit": []}
        self.blocks = self.steps = 0

    def attach(self, model: Classifier, data: ImageData, device: torch.device) -> None:
        """Hang it on a hook that Lightning calls anyway: a callback of its own would cost."""
        hp = model.hparams
        names = ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth")
        names += ("num_heads", "patch_embed", "pos_embed", "global_pool")
        copy = ViT(**{name: hp[name] for name in names})
        self.device = device
        self.bare = BareLoop(copy, hp, data, device)
        self.hook = model.on_train_batch_end
        object.__setattr__(model, "on_train_batch_end", self.on_train_batch_end)
        self.start = self.clock()

    def on_train_batch_end(self, *args: Any) -> None:
        self.hook(*args)
        self.steps += 1
        if self.steps % self.block:
            return
        measure.wait(self.device.type)
        own = self.clock() - self.start
        start = self.clock()
        self.bare.run(self.block)
        measure.wait(self.device.type)
        if self.blocks >= self.warmup:
            self.seconds["vitlit fit"].append(own)
            self.seconds["bare loop"].append(self.clock() - start)
        self.blocks += 1
        self.start = self.clock()


class LongEpochs(ImageData):
    """Epochs thirteen times as long, as real data sets have."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        split = self.splits["train"]
        self.splits["train"] = Split(split.images, split.members.repeat(13))


class Cli(VitCLI):
    """The command line, with long epochs and somebody who takes the time."""

    turns: TakeTurns | None = None
    profiler: cProfile.Profile | None = None

    def before_fit(self) -> None:
        self.datamodule.__class__ = LongEpochs
        if self.profiler is not None:  # from here on: what parsing costs is paid once
            self.profiler.enable()
        if self.turns is not None:
            device = self.trainer.strategy.root_device
            self.turns.attach(self.model, self.datamodule, device)


def fit(turns: TakeTurns | None, blocks: int, block: int, device: str, *more: str) -> None:
    """Training alone, without validation and checkpoints."""
    Cli.turns = turns
    accelerator = "gpu" if device == "cuda" else "cpu"
    options = [f"--trainer.max_steps={blocks * block}", "--trainer.max_epochs=-1"]
    options += ["--trainer.limit_val_batches=0", f"--trainer.accelerator={accelerator}"]
    options += ["--trainer.precision=32-true"]
    options += ["--trainer.enable_model_summary=false"]
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(None):
        os.chdir(folder)
        try:
            with Claim() as claim:
                Cli(["fit", "--config", "digits.yaml", *options, *more], claim)
        finally:
            os.chdir(before)


def profile(args: argparse.Namespace) -> None:
    Cli.profiler = cProfile.Profile()
    fit(None, 1 if args.quick else 5, args.block, args.device, *TINY)
    Cli.profiler.disable()
    pstats.Stats(Cli.profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = measure.parser(__doc__, rounds=15, warmup=2)
    parser.add_argument("--block", type=int, default=200, help="steps of one round")
    parser.add_argument("--profile", action="store_true", help="print the 25 costliest functions")
    args = parser.parse_args()
    measure.check(args, parser)
    if args.block < 1:
        parser.error(f"--block {args.block} is not positive")
    if args.quick:
        args.rounds, args.warmup, args.block = 3, 1, 50
    if args.profile:
        profile(args)
        return
    cells = (compare(args, title, *more) for title, more in CELLS.items())
    measure.report(args, __file__, cells, NOTE)


def compare(args: argparse.Namespace, title: str, *more: str) -> Cell:
    one_thread = args.device == "cpu" and args.threads == 1
    clock = time.process_time if one_thread else time.perf_counter
    turns = TakeTurns(args.block, args.warmup, clock)
    fit(turns, args.rounds + args.warmup, args.block, args.device, *more)
    cell = Cell(title, turns.seconds, "bare loop", args.block, "steps")
    per_step = {name: median(own) / args.block for name, own in turns.seconds.items()}
    gaps = [
        1e3 * (own - bare) / args.block
        for own, bare in zip(turns.seconds["vitlit fit"], turns.seconds["bare loop"], strict=True)
    ]
    cell.extra["ms per step"] = {name: f"{1e3 * value:.2f}" for name, value in per_step.items()}
    cell.extra["over the bare loop, ms"] = {"vitlit fit": f"{median(gaps):.2f}"}
    return cell


if __name__ == "__main__":
    main()
