"""Pretrain on one set of images, fine-tune on another, against the same steps from scratch.

Both take the same model, settings and number of optimiser steps on the second set, seed by seed;
only where the weights start differs. What is scored is the last epoch, on the test images, once.

    python benchmarks/transfer.py --pretrain-dir IMAGENET32 --data-dir CIFAR10 --seeds 0 1 2 --write
    python benchmarks/transfer.py --pretrain-dir A --data-dir B --quick     # does it run?

Both folders hold train/CLASS/IMAGE, the second one test/CLASS/IMAGE too.
"""

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev

import measure
import torch
from recipe import reached, vitlit
from recipe_record import write_section

MODEL = ["--model.patch_size=8", "--model.embed_dim=128", "--model.depth=6", "--model.num_heads=4"]
MODEL += ["--model.global_pool=avg"]
DATA = ["--data.dataset=folder", "--data.img_size=32", "--data.batch_size=128", "--data.flip=true"]
DATA += ["--data.crop_padding=4"]
TRAINING = ["--model.lr=1e-3", "--model.warmup_fraction=0.1", "--trainer.gradient_clip_val=1"]
TRAINING += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
RUN = Path("lightning_logs") / "transfer" / "checkpoints" / "last.ckpt"


def fit(options: list[str], folder: Path) -> Path:
    """Train in a new folder; the last checkpoint."""
    folder.mkdir(parents=True)
    vitlit(["fit", *DATA, *TRAINING, *options, "--run=transfer"], folder)
    return folder / RUN


def accuracy(checkpoint: Path) -> float:
    return reached(vitlit(["test", "--ckpt_path", str(checkpoint)], checkpoint.parent))


def compare(args: argparse.Namespace, folder: Path) -> dict[int, list[float]]:
    """By seed, the accuracy from scratch and fine-tuned."""
    pretraining = [f"--data.data_dir={args.pretrain_dir}", f"--trainer.max_epochs={args.epochs}"]
    source = fit([*MODEL, *pretraining], folder / "pretrained")
    steps = [f"--data.data_dir={args.data_dir}", f"--trainer.max_steps={args.steps}"]
    starts = {"scratch": MODEL, "pretrained": [f"--model.pretrained={source}"]}
    scores: dict[int, list[float]] = {}
    for seed in args.seeds:
        scores[seed] = []
        for name, options in starts.items():
            options = [*options, *steps, "--trainer.max_epochs=-1", f"--seed_everything={seed}"]
            scores[seed].append(accuracy(fit(options, folder / f"{name}-{seed}")))
        print(f"seed {seed}: {scores[seed][0]:.4f} from scratch, {scores[seed][1]:.4f} fine-tuned")
    return scores


def table(scores: dict[int, list[float]]) -> str:
    heads = ["seed", "from scratch", "pretrained", "gain"]
    lines = [measure.row(heads), measure.row(["---"] * len(heads))]
    rows = [(str(seed), *pair, pair[1] - pair[0]) for seed, pair in scores.items()]
    columns = [list(column) for column in zip(*(row[1:] for row in rows), strict=True)]
    lines += [measure.row([row[0], *(f"{value:.4f}" for value in row[1:])]) for row in rows]
    lines.append(measure.row(["mean", *(f"{mean(column):.4f}" for column in columns)]))
    if len(rows) > 1:
        lines.append(measure.row(["sd", *(f"{stdev(column):.4f}" for column in columns)]))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pretrain-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--names", nargs=2, default=["the first set", "the second set"])
    parser.add_argument("--epochs", type=int, default=4, help="of pretraining")
    parser.add_argument("--steps", type=int, default=350, help="on the second set, of 128 images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one epoch, ten steps, one seed")
    parser.add_argument("--write", action="store_true", help="into transfer.md")
    args = parser.parse_args()
    for folder in (args.pretrain_dir / "train", args.data_dir / "train", args.data_dir / "test"):
        if not folder.is_dir():
            parser.error(f"there is no folder {folder}")
    if args.quick:
        if args.write:
            parser.error("--quick is too short to keep; leave it out, or --write")
        args.epochs, args.steps, args.seeds = 1, 10, args.seeds[:1]
    args.pretrain_dir, args.data_dir = args.pretrain_dir.absolute(), args.data_dir.absolute()
    with tempfile.TemporaryDirectory() as name:
        scores = compare(args, Path(name))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = measure.device_name(device, torch.get_num_threads())
    first, second = args.names
    text = (
        f"{datetime.now(UTC).date()}, {where}, {measure.packages()}\n\n"
        f"`{measure.command()}`\n\n"
        f"A ViT of 6 blocks, width 128 and 8x8 patches of 32x32 pixels: {args.epochs} epochs on "
        f"{first}, then {args.steps} steps of 128 images on {second}, "
        f"against the same steps from scratch; test/acc of the last step.\n\n{table(scores)}"
    )
    print(text)
    if args.write:
        write_section(Path(__file__).with_suffix(".md"), f"{first} to {second}, {device}", text)


if __name__ == "__main__":
    sys.exit(main())
