"""Low-rank adapters against full fine-tuning and a linear probe: accuracy, and size of checkpoints.

A ViT learns the digits 0 to 4, and is then fine-tuned on the digits 5 to 9 (both ship with the
package). Each way trains with each rate, and the rate with the best validation accuracy is scored
on the test images, by split seed.

    python benchmarks/lora.py --write
    python benchmarks/lora.py --quick      # does it run?
"""

import argparse
import contextlib
import csv
import io
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import measure
import torch
from PIL import Image
from recipe import reached
from recipe_record import write_section

from vitlit import ImageData, ViT
from vitlit.__main__ import main as vitlit
from vitlit.model.low_rank import add_adapters

MODEL = ["--model.patch_size=2", "--model.embed_dim=48", "--model.depth=3", "--model.num_heads=3"]
MODEL += ["--model.global_pool=avg", "--model.patch_embed=linear", "--model.pos_embed=learn"]
DATA = ["--data.dataset=folder", "--data.img_size=8", "--data.batch_size=32", "--data.in_chans=1"]
DATA += ["--data.crop_padding=1"]
TRAINING = ["--model.warmup_fraction=0.1", "--trainer.gradient_clip_val=1"]
TRAINING += ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
WAYS = {
    "linear probe": ["--model.freeze_blocks=-1"],
    "LoRA, rank 2": ["--model.lora_rank=2"],
    "LoRA, rank 8": ["--model.lora_rank=8"],
    "full fine-tuning": [],
}
RATES = ("5e-3", "2e-2")


class Outcome(NamedTuple):
    """accuracy: of the test images; trained: parameters; size: of the checkpoint, in bytes."""

    accuracy: float
    trained: int
    size: int


def write_digits(folder: Path) -> None:
    """Two folders of class folders: the digits 0 to 4 and 5 to 9."""
    data = ImageData(patch_size=2)
    data.setup("fit")
    images = data.splits["train"].images  # of all splits
    pixels, labels = images.gather(torch.arange(len(images.labels))), images.labels
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        file = folder / ("first" if label < 5 else "second") / str(label) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(file)


def run(args: list[str]) -> str:
    """What a command prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = vitlit([*args, *QUIET])
    if status:
        sys.exit(f"{' '.join(args)}\n{err.getvalue()[-2000:]}")
    return out.getvalue()


def fit(name: str, options: list[str], epochs: int) -> Path:
    """Train; the folder of the run."""
    run(["fit", *DATA, *TRAINING, *options, f"--trainer.max_epochs={epochs}", f"--run={name}"])
    return Path("lightning_logs") / name


def validated(folder: Path) -> float:
    """The validation accuracy of the last epoch."""
    with (folder / "history.csv").open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["val/acc"])


def outcome(folder: Path) -> Outcome:
    file = folder / "checkpoints" / "last.ckpt"
    [optimizer] = torch.load(file, weights_only=True)["optimizer_states"]
    trained = sum(state["exp_avg"].numel() for state in optimizer["state"].values())
    return Outcome(reached(run(["test", "--ckpt_path", str(file)])), trained, file.stat().st_size)


def compare(seeds: list[int], epochs: int, rates: tuple[str, ...]) -> dict[str, list[Outcome]]:
    """By way, the outcome of each seed."""
    first = fit("first", [*MODEL, "--data.data_dir=first", "--model.lr=5e-3"], 2 * epochs)
    start = [f"--model.pretrained={first / 'checkpoints' / 'last.ckpt'}", "--data.data_dir=second"]
    found: dict[str, list[Outcome]] = {name: [] for name in WAYS}
    for seed in seeds:
        for number, (name, options) in enumerate(WAYS.items()):
            trials = [
                fit(
                    f"{number}-{seed}-{rate}",
                    [*start, *options, f"--model.lr={rate}", f"--data.split_seed={seed}"],
                    epochs,
                )
                for rate in rates
            ]
            found[name].append(outcome(max(trials, key=validated)))
            print(f"{name}, split seed {seed}: {found[name][-1]}", flush=True)
    return found


def table(found: dict[str, list[Outcome]]) -> str:
    heads = ["", "parameters trained", "checkpoint, kB", "test/acc", "sd over seeds"]
    lines = [measure.row(heads), measure.row(["---"] * len(heads))]
    for name, each in found.items():
        scores = [one.accuracy for one in each]
        spread = f"{stdev(scores):.4f}" if len(scores) > 1 else ""
        size = f"{each[0].size / 1000:.0f}"
        cells = [name, f"{each[0].trained:,}", size, f"{mean(scores):.4f}", spread]
        lines.append(measure.row(cells))
    return "\n".join(lines) + "\n"


def large(rank: int) -> str:
    """In words, what is trained of a ViT-B/16."""
    with torch.device("meta"):
        vit = ViT(num_classes=10)
        total = sum(weight.numel() for weight in vit.parameters())
        add_adapters(vit, rank, rank)
    trained = sum(weight.numel() for weight in vit.parameters() if weight.requires_grad)
    return (
        f"Of a ViT-B/16 with {total:,} parameters and 10 classes, rank {rank} trains {trained:,} "
        f"({trained / total:.1%})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the splits")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="one epoch, rate and seed")
    parser.add_argument("--write", action="store_true", help="into lora.md")
    args = parser.parse_args()
    rates = RATES
    if args.quick:
        if args.write:
            parser.error("--quick is too short to keep; leave it out, or --write")
        args.seeds, args.epochs, rates = args.seeds[:1], 1, RATES[:1]
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        write_digits(Path())
        found = compare(args.seeds, args.epochs, rates)
        os.chdir(before)
    where = measure.device_name("cpu", torch.get_num_threads())
    text = (
        f"{datetime.now(UTC).date()}, {where}, {measure.packages()}\n\n`{measure.command()}`\n\n"
        f"A ViT of 3 blocks of width 48 learned the digits 0 to 4 in {2 * args.epochs} epochs, "
        f"then {args.epochs} epochs on the digits 5 to 9, with the best of the rates "
        f"{', '.join(rates)} by validation; split seeds "
        f"{', '.join(map(str, args.seeds))}.\n\n{table(found)}\n{large(8)}"
    )
    print(text)
    if args.write:
        write_section(Path(__file__).with_suffix(".md"), "Digits 0 to 4, then 5 to 9", text)


if __name__ == "__main__":
    sys.exit(main())
