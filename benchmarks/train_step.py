"""Time one training step of vitlit's ViT against peers that hold the same weights.

A step is zero_grad, forward, cross entropy, backward and AdamW, in fp32 on the CPU: images
(B, C, H, W) and labels (B) -> seconds. Every peer takes timm's weights and must give timm's
logits; then they take turns in each round, in rotating order, so that noise meets them alike.

    pip install -e '.[test]'                     # brings timm
    python benchmarks/train_step.py --quick      # under a minute, too short to keep
    python benchmarks/train_step.py --write      # replaces benchmarks/train_step.md
"""

import argparse
import json
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitlit.vit import ViT

Shape = dict[str, Any]  # the arguments that ViT and timm's VisionTransformer share
Weights = dict[str, Tensor]  # a state dict under timm's names
Seconds = dict[str, list[float]]  # of each peer's step, one per round

REFERENCE = "timm"
ARGUMENTS = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_classes")
SHAPES: dict[str, Shape] = {
    "32px/4 192x12 h12": dict(zip(ARGUMENTS, (32, 4, 192, 12, 12, 10), strict=True)),
    "32px/4 192x12 h3": dict(zip(ARGUMENTS, (32, 4, 192, 12, 3, 10), strict=True)),
    "ViT-S/16 224px": dict(zip(ARGUMENTS, (224, 16, 384, 12, 6, 1000), strict=True)),
}


def timm_vit(shape: Shape, weights: Weights | None = None) -> nn.Module:
    model = VisionTransformer(**shape, class_token=True, global_pool="token", pos_embed="learn")
    model.load_state_dict(weights or model.state_dict(), strict=True)
    return model


def vitlit_vit(shape: Shape, weights: Weights) -> nn.Module:
    model = ViT(**shape, patch_embed="conv", global_pool="token", pos_embed="learn")
    model.load_state_dict(weights, strict=True)
    return model


# A peer is built with timm's weights; one with names of its own renames them in its builder.
Builder = Callable[[Shape, Weights], nn.Module]
BUILDERS: dict[str, Builder] = {"vitlit": vitlit_vit, "timm": timm_vit}


def reference_weights(shape: Shape) -> Weights:
    """timm's initial values plus noise: no bias stays 0, so none can be missed or swapped."""
    draw = torch.Generator().manual_seed(0)
    state = timm_vit(shape).state_dict()
    return {k: v + 0.02 * torch.randn(v.shape, generator=draw) for k, v in state.items()}


def random_batch(shape: Shape, size: int) -> tuple[Tensor, Tensor]:
    """Images ``(B, 3, H, W)`` and labels ``(B)``."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, shape["img_size"], shape["img_size"], generator=draw)
    return images, torch.randint(shape["num_classes"], (size,), generator=draw)


def check_same_logits(models: dict[str, nn.Module], images: Tensor) -> None:
    """Raise unless every peer gives the reference's logits within 1e-4."""
    with torch.no_grad():
        logits = {name: model(images) for name, model in models.items()}
    for name, own in logits.items():
        gap = (own - logits[REFERENCE]).abs().max().item()
        if not gap <= 1e-4:  # NaN fails too
            raise RuntimeError(f"logits of {name} are {gap:.1e} off {REFERENCE}'s, over 1e-4")


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def time_rounds(steps: dict[str, Callable[[], None]], rounds: int, warmup: int) -> Seconds:
    """Let the peers take turns; the warm-up rounds come first and are not in the result."""
    names = list(steps)
    seconds: Seconds = {name: [] for name in names}
    for i in range(warmup + rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            steps[name]()
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def round_ratios(seconds: Seconds, name: str) -> list[float]:
    return [own / ref for own, ref in zip(seconds[name], seconds[REFERENCE], strict=True)]


def markdown(seconds: Seconds, shape: str, batch: int, threads: int) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "vitlit"))
    command = shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]])
    lines = [
        f"{datetime.now(UTC).date()}, {processor()}, {threads} thread(s), {packages}, `{command}`",
        "",
        f"fp32 on the CPU, {shape}, batch {batch}, {len(seconds[REFERENCE])} rounds. Ratios are "
        f"of seconds, so 1.05 is 5 % slower than {REFERENCE}; quartiles in brackets.",
        "",
        "| model | median s | images/s | ratio of medians | median of the rounds' ratios |",
        "|---|---|---|---|---|",
    ]
    for name, own in seconds.items():
        ratios = torch.tensor(round_ratios(seconds, name))
        low, high = ratios.quantile(torch.tensor([0.25, 0.75])).tolist()
        lines.append(
            f"| {name} | {median(own):.4f} | {batch / median(own):.1f} "
            f"| {median(own) / median(seconds[REFERENCE]):.3f} "
            f"| {median(ratios.tolist()):.3f} ({low:.3f} to {high:.3f}) |"
        )
    return "\n".join(lines) + "\n"


def records(seconds: Seconds, shape: str, batch: int) -> list[dict[str, Any]]:
    """What ``--json`` holds; each ratio is the entry's value over the reference's."""
    found = []
    for name, own in seconds.items():
        slower = median(own) / median(seconds[REFERENCE])
        paired = median(round_ratios(seconds, name))
        for what, value, unit, ratio in (
            ("step", median(own), "s", slower),
            ("throughput", batch / median(own), "images/s", 1 / slower),
            ("step, median of the rounds' ratios", paired, "1", paired),
        ):
            entry = {"name": f"{shape}, batch {batch}, fp32, cpu, {name}: {what}", "value": value}
            found.append(entry | {"unit": unit, "ratio_to": REFERENCE, "ratio": ratio})
    return found


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", choices=SHAPES, default=next(iter(SHAPES)))
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 4 images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--write", action="store_true", help="replace benchmarks/train_step.md")
    args = parser.parse_args()
    if min(args.batch, args.threads, args.rounds, args.warmup + 1) < 1:
        parser.error("--batch, --threads and --rounds must be 1 or more, --warmup 0 or more")
    if args.quick and args.write:
        parser.error("--quick is too short to keep; leave out --quick or --write")
    if args.quick:
        args.rounds, args.warmup, args.batch = 3, 1, 4
    return args


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    shape = SHAPES[args.shape]
    weights = reference_weights(shape)
    images, labels = random_batch(shape, args.batch)
    models = {name: build(shape, weights) for name, build in BUILDERS.items()}
    check_same_logits(models, images)
    steps = {name: training_step(model, images, labels) for name, model in models.items()}
    seconds = time_rounds(steps, args.rounds, args.warmup)
    table = markdown(seconds, args.shape, args.batch, args.threads)
    print(table, end="")
    if args.json:
        args.json.write_text(json.dumps(records(seconds, args.shape, args.batch), indent=2) + "\n")
    if args.write:
        Path(__file__).with_suffix(".md").write_text(table)


if __name__ == "__main__":
    main()
