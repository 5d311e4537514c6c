"""Accuracy against the share of the training data, by the inductive bias of the model.

At each share every setting, and a small plain CNN as a yardstick, takes the same optimiser steps,
in number as the cube root of the share, seed by seed. A seed decides the weights, the order and
which images make the share, and of digits also which are for testing; smaller shares are parts of
larger ones. What is scored is the last step, once, on the test images.

    python benchmarks/inductive_bias.py digits --write
    python benchmarks/inductive_bias.py mnist --data-dir DIR --write
    python benchmarks/inductive_bias.py cifar10 --data-dir DIR --write
    python benchmarks/inductive_bias.py cifar10 --data-dir DIR --folder --write
    python benchmarks/inductive_bias.py digits --quick                      # does it run?

Each score is kept in inductive_bias_SET.csv as soon as it is there: the same command, or another in
a second process, trains only what is missing. --write replaces the set's section of
inductive_bias.md, and docs/pictures/inductive_bias_SET.png. --folder takes DIR/train/CLASS and
DIR/test/CLASS in place of the set's own files. On a CPU, cifar10 takes a smaller model and fewer
steps than on a GPU.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import measure
import pytorch_lightning as pl
import torch
from bias_scores import CNN, Score, append, draw, read, table
from recipe_options import file_settings
from recipe_record import write_section
from torch import Tensor, nn

from vitlit import ImageData
from vitlit.training.classifier import Classifier

SHARES = (0.01, 0.05, 0.1, 0.25, 1.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain ViT": {},
    "rope": {"pos_embed": "rope"},
    "SPT + LSA": {"patch_embed": "shifted", "attention": "lsa"},
    "GPSA": {"attention": "gpsa"},
    "conv stem": {"patch_embed": "conv_stem"},
    "conv stem + seq (CCT)": {"patch_embed": "conv_stem", "global_pool": "seq"},
}
COMMON: dict[str, Any] = {"patch_embed": "linear", "global_pool": "avg", "label_smoothing": 0.1}


@dataclass(frozen=True)
class Task:
    """A data set, the part of its training images that is 100 %, and models that suit it.

    steps: of the optimiser, on 100 %.
    """

    data: dict[str, Any]
    model: dict[str, Any]
    steps: int
    whole: float = 1.0


TASKS = {
    "digits": Task(
        {"batch_size": 64, "crop_padding": 1},
        {"patch_size": 2, "embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2, "lr": 5e-3},
        steps=1200,
    ),
    "mnist": Task(
        {"batch_size": 64, "crop_padding": 2},
        {"patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2, "lr": 4e-3},
        steps=1000,
        whole=0.1,
    ),
    "cifar10": Task(
        {"batch_size": 256, "crop_padding": 4, "flip": True},
        {"patch_size": 4, "embed_dim": 192, "depth": 9, "num_heads": 4, "lr": 1e-3},
        steps=10000,
    ),
}
ON_CPU = {
    "cifar10": Task(
        {"batch_size": 128, "crop_padding": 4, "flip": True},
        {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_ratio": 2, "lr": 2e-3},
        steps=1200,
    ),
}


class PlainCNN(nn.Module):
    """Three times 3x3 convolution, ReLU and 2x2 max pooling, then two layers.

    images (B, C, H, W) -> logits (B, num_classes)
    """

    def __init__(self, in_chans: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.config = {"depth": 3}  # what the Classifier asks a ViT for
        self.blocks = nn.Sequential()
        width = in_chans
        for following in (32, 64, 64):
            self.blocks.append(nn.Conv2d(width, following, kernel_size=3, padding=1))
            self.blocks.append(nn.ReLU())
            self.blocks.append(nn.MaxPool2d(2, ceil_mode=True))
            width = following
        self.head = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).flatten(1))


def classifier(name: str, task: Task, data: ImageData) -> Classifier:
    """The model of a setting, in the training that all settings share."""
    sizes = {"img_size": data.img_size, "in_chans": data.in_chans, "num_classes": data.num_classes}
    settings = {**COMMON, **task.model, **SETTINGS.get(name, {})}
    model = Classifier(**settings, **sizes, warmup_fraction=0.1)
    if name == CNN:
        cnn = PlainCNN(data.in_chans, data.num_classes)
        size = data.img_size
        cnn(torch.zeros(1, data.in_chans, *([size, size] if isinstance(size, int) else size)))
        model.vit = cnn  # type: ignore[assignment]
    return model


def steps_of(share: float, whole: int) -> int:
    """Optimiser steps on a share: few images are learned sooner, but not in proportion."""
    return max(1, round(whole * share ** (1 / 3)))


def accuracy(
    name: str, task: Task, share: float, seed: int, args: argparse.Namespace
) -> tuple[float, int]:
    """Test accuracy of one training, and how many images it had."""
    patch_size = task.model["patch_size"]
    embedding = {**COMMON, **SETTINGS.get(name, {})}["patch_embed"]
    data = ImageData(
        **args.source,
        **task.data,
        **({"data_dir": args.data_dir} if args.data_dir else {}),
        train_fraction=share * task.whole,
        split_seed=seed,
        seed=seed,
        patch_size=patch_size,
        patchify=name != CNN and embedding == "linear",
    )
    pl.seed_everything(seed, verbose=False)
    trainer = pl.Trainer(
        accelerator=args.device,
        devices=1,
        max_epochs=-1,
        max_steps=steps_of(share, args.steps),
        limit_val_batches=0,
        gradient_clip_val=1.0,
        precision="bf16-mixed" if args.device == "cuda" else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = classifier(name, task, data)
    trainer.fit(model, data)
    images = len(data.splits["train"])
    return trainer.test(model, data, verbose=False)[0]["test/acc"], images


def train(recipe: str, name: str, share: float, seed: int, args: argparse.Namespace) -> Score:
    clock = time.perf_counter if args.device == "cuda" else time.process_time
    start = clock()
    found, images = accuracy(name, args.task, share, seed, args)
    steps, seconds = steps_of(share, args.steps), round(clock() - start, 1)
    return Score(recipe, name, share, seed, images, steps, round(found, 6), seconds)


def digest(name: str, args: argparse.Namespace) -> str:
    """Short name of all that decides a training, but its share and seed."""
    own = {} if name == CNN else SETTINGS[name]
    whole = [asdict(args.task), COMMON, own, args.steps, args.device]
    whole += [args.source] if args.folder else []
    return sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def wanted(args: argparse.Namespace) -> list[tuple[str, str, float, int]]:
    """Recipe, setting, share and seed of each training that was asked for."""
    return [
        (digest(name, args), name, share, seed)
        for name in args.settings
        for share in args.shares
        for seed in args.seeds
    ]


def sweep(args: argparse.Namespace) -> list[Score]:
    """All scores, printed as they come; those that the file has are not made again."""
    for key in wanted(args):
        if key not in {score[:4] for score in read(args.scores)}:
            score = train(*key, args)
            append(args.scores, score)
            print(
                f"{score.setting:24} {score.share:6.0%} {score.seed:3}  {score.accuracy:.4f}",
                flush=True,
            )
    found = {score[:4]: score for score in read(args.scores)}
    return [found[key] for key in wanted(args)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("dataset", choices=list(TASKS))
    parser.add_argument("--data-dir", type=Path, metavar="DIR")
    parser.add_argument("--folder", action="store_true", help="DIR/train/CLASS, DIR/test/CLASS")
    parser.add_argument("--called", metavar="NAME", help="what the tables call the images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--settings", nargs="+", choices=[*SETTINGS, CNN], default=[*SETTINGS, CNN])
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of the optimiser on 100 %%, for every setting")
    parser.add_argument("--quick", action="store_true", help="two shares, one seed, five steps")
    parser.add_argument("--write", action="store_true", help="into inductive_bias.md and the docs")
    args = parser.parse_args()
    if args.quick:
        if args.write:
            parser.error("--quick is too short to keep; leave it out, or --write")
        args.shares, args.seeds, args.steps = args.shares[:2], args.seeds[:1], 5
    tasks = TASKS | (ON_CPU if args.device == "cpu" else {})
    args.task = tasks[args.dataset]
    args.steps = args.steps or args.task.steps
    own = {"dataset": args.dataset}
    args.source = file_settings(args.dataset) if args.folder else own
    here = Path(tempfile.mkdtemp()) if args.quick else Path(__file__).parent
    args.scores = here / f"inductive_bias_{args.dataset}.csv"
    args.data_dir = str(args.data_dir.absolute()) if args.data_dir else None
    return args


def spread_of(trainings: int) -> str:
    """What a figure is over the seeds."""
    if trainings == 1:
        return "one training each"
    return f"mean and standard deviation of {trainings} trainings"


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_utilities|torch.nn")
    scores = sweep(args)
    task = args.task
    clock = "on the GPU's clock" if args.device == "cuda" else "of processor time"
    of_whole = "" if task.whole == 1 else f" (100 % is {task.whole:.0%} of the set's)"
    batch, seeds = task.data["batch_size"], ", ".join(map(str, args.seeds))
    text = (
        f"{datetime.now(UTC).date()}, {measure.device_name(args.device, args.threads)}, "
        f"{measure.packages()}\n\n`{measure.command()}`\n\nTest accuracy after so many steps of "
        f"{batch} images, by the share of the training images{of_whole}; "
        f"{spread_of(len(args.seeds))}, seed {seeds}; seconds {clock} for one training on all, "
        f"test included."
        f"\n\n{table(scores)}"
    )
    print(text)
    if args.write:
        here = Path(__file__).parent
        name = args.called or args.dataset
        write_section(here / "inductive_bias.md", f"{name}, {args.device}", text)
        picture = here.parent / "docs" / "pictures" / f"inductive_bias_{args.dataset}.png"
        title = f"{name}: {spread_of(len(args.seeds))}"
        draw(scores, list(SETTINGS), title, picture)


if __name__ == "__main__":
    sys.exit(main())
