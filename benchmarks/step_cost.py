"""Processor seconds of a plain training step, with the model of this tree and of an earlier commit.

Both are imported into one process, and take turns of one step, the first changing with each turn. A
step is zero_grad, forward, cross entropy, backward and fused AdamW, in float32 on one thread.
Processor time, since other programs may be running. Each round builds both anew, with the same
weights, since where their memory lies makes a difference. The second table compares the earlier
commit with itself. images (B, C, H, W), labels (B) -> seconds

    python benchmarks/step_cost.py --before REVISION
    python benchmarks/step_cost.py --before REVISION --write  # into step_cost.md
"""

import argparse
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
MODELS = {  # the model's arguments, images of a step, turns of a round
    "digits, plain ViT: 8px/2 48x3 h3": (
        {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "embed_dim": 48,
         "depth": 3, "num_heads": 3, "patch_embed": "linear", "pos_embed": "sincos2d",
         "global_pool": "avg"},
        64,
        40,
    ),
    "ViT-Ti: 32px/4 192x12 h3": (
        {"img_size": 32, "patch_size": 4, "num_classes": 10, "embed_dim": 192, "depth": 12,
         "num_heads": 3},
        4,
        8,
    ),
}  # fmt: skip


def import_vit(tree: Path) -> Any:
    """The class ViT of a tree, beside those that were imported before."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "vitlit"]:
        del sys.modules[name]
    sys.path.insert(0, str(tree))
    found = importlib.import_module("vitlit.model.vit")
    sys.path.remove(str(tree))
    assert Path(found.__file__ or "").is_relative_to(tree)
    return found.ViT


def make_step(vit: Any, model: str) -> Callable[[], float]:
    torch.manual_seed(0)
    arguments, size, _ = MODELS[model]
    module = vit(**arguments)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    images = torch.randn(size, module.in_chans, *module.img_size)
    labels = torch.randint(10, (size,))

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(module(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def round_of(vits: list[Any], model: str) -> list[float]:
    """Median processor seconds of a step of each; the losses of both must be equal."""
    steps = [make_step(vit, model) for vit in vits]
    for _ in range(3):
        losses = {step() for step in steps}
        assert len(losses) == 1, losses
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(MODELS[model][2]):
        for which in (0, 1) if number % 2 else (1, 0):
            begin = time.process_time()
            steps[which]()
            seconds[which].append(time.process_time() - begin)
    return [statistics.median(own) for own in seconds]


def compare(vits: list[Any], model: str, rounds: int) -> list[str]:
    """A row of the table."""
    # which of them is built first changes too
    found = [round_of(vits, model) for _ in range(rounds // 2)]
    found += [round_of(vits[::-1], model)[::-1] for _ in range(rounds - len(found))]
    old, new = (statistics.median(own) for own in zip(*found, strict=True))
    low, middle, high = statistics.quantiles([b / a for a, b in found], n=4)
    return [
        model, f"{1000 * old:.2f}", f"{1000 * new:.2f}", f"{new / old:.3f}",
        f"{middle:.3f} ({low:.3f} to {high:.3f})",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", required=True, help="the earlier commit")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="write step_cost.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    head = ["model", "ms before", "ms after", "after / before", "in the rounds"]
    with tempfile.TemporaryDirectory() as folder:
        command = ["git", "-C", str(ROOT), "archive", args.before, "vitlit"]
        packed = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
        before = import_vit(Path(folder))
        texts = []
        for after in (import_vit(ROOT), import_vit(Path(folder))):
            rows = [compare([before, after], model, args.rounds) for model in MODELS]
            texts.append("\n".join(measure.row(row) for row in [head, ["---"] * len(head), *rows]))
            print(texts[-1], flush=True)
    text = "\n\nThe earlier commit against itself:\n\n".join(texts)
    if args.write:
        title = f"# Cost of the model's arguments\n\n{datetime.now(UTC):%Y-%m-%d}, "
        title += f"{measure.device_name('cpu', 1)}, {measure.packages()}\n\n"
        said = f"`python benchmarks/step_cost.py --before {args.before} --rounds {args.rounds}`"
        note = "Processor milliseconds of a step; the losses of both are equal, bit for bit."
        path = Path(__file__).with_suffix(".md")
        path.write_text(f"{title}{said}\n\n{note}\n\n{text}\n")


if __name__ == "__main__":
    main()
