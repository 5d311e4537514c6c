"""How many steps Muon and AdamW need, on the digits and on MNIST, and how long a step takes.

    python benchmarks/muon.py step --write
    python benchmarks/muon.py digits --write
    python benchmarks/muon.py mnist --data-dir DIR --write
    python benchmarks/muon.py digits --quick       # does it run?

digits: a model of the size of digits.yaml, with fixed positions, in 120 epochs; the first step, of
every twentieth, after which 95 % of the validation images, a quarter of the training images, are
right.

mnist: the first hundred steps whose mean training loss is no higher than that of the last hundred
of AdamW at its best rate. The best rate of each optimiser is the one of three with the lowest loss
at the end of a training on another seed.

step: a whole training step of two recipes with AdamW, with Muon by torch's class, which computes in
bfloat16, and with Muon by ours. All take turns; one thread computes, in float32.

What a training found is kept in few_labels.jsonl: the same command trains only what is missing.
--write replaces a section of muon.md.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import kept_scores
import measure
import torch
import torch.nn.functional as F
from few_labels import Training, trainer_for
from pytorch_lightning.callbacks import Callback
from recipe_record import write_section

from vitlit.evaluation.inference import collect, loader_of
from vitlit.model.vit import ViT
from vitlit.training.optim.groups import parameter_groups
from vitlit.training.optim.muon import MuonAdamW

GOAL, LOOK_EVERY, WINDOW = 0.95, 20, 100  # accuracy, and steps
STEPS = {"digits": 2440, "mnist": 843}  # 120 epochs of the digits; one of MNIST
PILOT = 100  # the seed that rates are chosen on
MODELS: dict[str, dict[str, Any]] = {
    "digits": {"mlp_ratio": 4},
    "mnist": {"patch_size": 7, "embed_dim": 48, "depth": 3, "num_heads": 3},
}
DATA: dict[str, dict[str, Any]] = {"digits": {"val_fraction": 0.25}, "mnist": {}}
RATES = {
    "digits": {"adamw": (2.5e-3, 5e-3, 1e-2), "muon": (5e-3, 1e-2, 2e-2)},
    "mnist": {"adamw": (1e-3, 2e-3, 4e-3), "muon": (2e-3, 5e-3, 1e-2)},
}

COMMON: dict[str, Any] = {"num_classes": 10, "pos_embed": "sincos2d", "global_pool": "avg"}
RECIPES: dict[str, tuple[int, dict[str, Any]]] = {  # images of a step, arguments of the model
    "digits, plain ViT": (
        64,
        {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 48, "depth": 3,
         "num_heads": 3, "patch_embed": "linear"},
    ),
    "cifar10_cpu.yaml": (
        128,
        {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2, "num_heads": 3,
         "mlp_ratio": 2, "patch_embed": "conv_stem", "stem_convs": 2},
    ),
}  # fmt: skip


class TorchsMuon:
    """torch.optim.Muon, for matrices and for copies of filters as matrices, and AdamW."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        own = [p for group in groups if group["is_muon"] for p in group["params"]]
        self.filters = [(p, torch.nn.Parameter(p.detach().flatten(1))) for p in own if p.ndim > 2]
        matrices = [p for p in own if p.ndim == 2] + [twin for _, twin in self.filters]
        self.muon = torch.optim.Muon(matrices, 0.01, 0.05, adjust_lr_fn="match_rms_adamw")
        rest = [{"params": group["params"]} for group in groups if not group["is_muon"]]
        self.adamw = torch.optim.AdamW(rest, 1e-3, fused=True)

    def step(self) -> None:
        for p, twin in self.filters:
            assert p.grad is not None
            twin.grad = p.grad.flatten(1)
        self.muon.step()  # type: ignore[no-untyped-call]
        self.adamw.step()


class Watch(Callback):
    """Keeps the loss of each step, and the first step after which the accuracy is ``GOAL``."""

    def __init__(self, *, looks: bool) -> None:
        self.looks, self.losses, self.step = looks, [0.0][:0], None

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        done = trainer.global_step
        if not self.looks or done % LOOK_EVERY:
            return
        data, vit = trainer.datamodule, module.vit.eval()
        rows = collect(data, loader_of(data, data.splits["val"]), vit, torch.device("cpu")).rows()
        vit.train()
        if (rows.values.argmax(dim=1) == rows.labels).float().mean() >= GOAL:
            self.step, trainer.should_stop = done, True


@dataclass(frozen=True)
class Found:
    """Of one training: the step that reached the goal, if one did, and the loss of each window."""

    step: int | None
    windows: list[float]


def training(args: argparse.Namespace, name: str, rate: float, seed: int) -> Training:
    settings = {"optimizer": name, "muon_lr" if name == "muon" else "lr": rate}
    model = MODELS[args.task] | settings
    return Training(args.task, seed, args.steps, data=DATA[args.task], model=model)


def train(args: argparse.Namespace, name: str, rate: float, seed: int) -> Found:
    """From the file if it is there, else the training is made."""
    wanted = training(args, name, rate, seed)
    digest = wanted.digest("muon")
    kept = read(args.file)
    if digest in kept:
        return kept[digest]
    watch, data = Watch(looks=args.task == "digits"), wanted.images(args.data_dir, "val")
    trainer_for(args.steps, watch).fit(wanted.module(data), data)
    parts = torch.tensor(watch.losses).split(WINDOW)
    found = Found(watch.step, [round(float(part.mean()), 5) for part in parts])
    about = {"of": [args.task, name, rate, seed], "step": found.step, "windows": found.windows}
    with args.file.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"digest": digest, "split": "muon", **about}) + "\n")
    print(name, rate, seed, found.step, found.windows[-1], flush=True)
    return found


def read(path: Path) -> dict[str, Found]:
    rows = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {row["digest"]: Found(row["step"], row["windows"]) for row in rows if "windows" in row}


def steps_of(found: Found, goal: float, limit: int) -> int | None:
    """Steps until the loss of a window is no higher than the goal; the last window may be short."""
    ends = (min(limit, WINDOW * (i + 1)) for i, loss in enumerate(found.windows) if loss <= goal)
    return next(ends, None)


def digits(args: argparse.Namespace) -> list[list[str]]:
    lines = []
    for name, rates in RATES["digits"].items():
        for rate in rates:
            steps = [train(args, name, rate, seed).step for seed in args.seeds]
            lines.append([*label(name, rate), *shown(steps, args.steps)])
    return lines


def mnist(args: argparse.Namespace) -> list[list[str]]:
    best: dict[str, float] = {}
    for name, rates in RATES["mnist"].items():
        last = {rate: train(args, name, rate, PILOT).windows[-1] for rate in rates}
        best[name] = min(last, key=lambda rate: last[rate])
    goals = {seed: train(args, "adamw", best["adamw"], seed).windows[-1] for seed in args.seeds}
    lines = []
    for name, rate in best.items():
        found = {seed: train(args, name, rate, seed) for seed in args.seeds}
        steps = [steps_of(own, goals[seed], args.steps) for seed, own in found.items()]
        last_loss = f"{mean(own.windows[-1] for own in found.values()):.4f}"
        lines.append([*label(name, rate), *shown(steps, args.steps), last_loss])
    return lines


def label(name: str, rate: float) -> list[str]:
    return ["AdamW", f"lr {rate}"] if name == "adamw" else ["Muon", f"muon_lr {rate}"]


def shown(steps: list[int | None], limit: int) -> list[str]:
    """The steps of each seed, and their mean."""
    reached = [step for step in steps if step is not None]
    average = f"{mean(reached):.0f}" if len(reached) == len(steps) else "-"
    return [", ".join("never" if step is None else str(step) for step in steps), average]


def text_of(args: argparse.Namespace) -> str:
    heads = ["optimiser", "rate", "steps of each seed", "mean"]
    about: Mapping[str, str] = {
        "digits": f"Steps of 64 images until {GOAL:.0%} of the validation images are right, of "
        f"{args.steps} on a cosine schedule; seeds {args.seeds}.",
        "mnist": f"Steps of 64 images, of {args.steps} on a cosine schedule, until the mean loss "
        f"of {WINDOW} steps is no higher than AdamW's last one on the same seed; rates chosen on "
        f"seed {PILOT}; seeds {args.seeds}.",
    }
    if args.task == "mnist":
        heads, lines = [*heads, "last loss"], mnist(args)
    else:
        lines = digits(args)
    return f"{kept_scores.about()}\n\n{about[args.task]}\n\n{kept_scores.table(heads, lines)}"


def training_step(recipe: str, name: str) -> Callable[[], None]:
    """Forward, backward and update of a model of its own."""
    size, arguments = RECIPES[recipe]
    torch.manual_seed(0)
    model = ViT(**COMMON, **arguments)
    images = torch.randn(size, model.in_chans, *model.img_size)
    labels = torch.randint(10, (size,))
    groups = parameter_groups(
        model, weight_decay=0.05, decay="matrices", muon_lr=None if name == "AdamW" else 0.01
    )
    optimizer: Any
    if name == "AdamW":
        optimizer = torch.optim.AdamW(groups, 1e-3, fused=True)
    elif name == "torch's Muon":
        optimizer = TorchsMuon(groups)
    else:
        optimizer = MuonAdamW(groups, lr=1e-3, fused=True)

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def step(args: argparse.Namespace) -> str:
    """The table of seconds."""
    names = ["AdamW", "torch's Muon", "Muon"]
    lines = []
    for recipe in RECIPES:
        rounds = 2 if args.quick else 9
        calls = {name: training_step(recipe, name) for name in names}
        found = measure.take_turns(calls, rounds=rounds, warmup=1, device="cpu")
        times = [median(found[name]) for name in names]
        cells = [f"{1000 * seconds:.1f}" for seconds in times]
        lines.append([recipe, *cells, *(f"{seconds / times[0]:.2f}" for seconds in times[1:])])
    heads = ["recipe", *(f"{name}, ms" for name in names)]
    heads += [f"{name} / AdamW" for name in names[1:]]
    return (
        f"{kept_scores.about()}\n\nProcessor milliseconds of a training step, medians of steps "
        f"that took turns.\n\n{kept_scores.table(heads, lines)}"
    )


def main() -> None:
    parser = kept_scores.parser(__doc__)
    parser.add_argument("task", choices=["step", *STEPS])
    args = kept_scores.parsed(parser)
    if args.task == "mnist" and args.data_dir is None:
        parser.error("give --data-dir, the folder that holds MNIST/raw")
    args.steps = 40 if args.quick else STEPS.get(args.task)
    args.file = Path("/dev/null") if args.quick else Path(__file__).parent / "few_labels.jsonl"
    text = step(args) if args.task == "step" else text_of(args)
    print(text)
    if args.write:
        write_section(Path(__file__).with_suffix(".md"), args.task, text)


if __name__ == "__main__":
    sys.exit(main())
