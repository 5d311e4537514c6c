"""The same processor time for five ways to train a small ViT on CIFAR-10: what does each reach?

    python benchmarks/duel.py --data-dir DIR --minutes 60 --write
    python benchmarks/duel.py --data-dir DIR --minutes 60 --only plain stem

DIR holds CIFAR-10 as files, train/CLASS and test/CLASS. All learn from the same images, and hold
the same ones out. Short trainings of each way say what a step costs; then it gets as many
epochs as fit into the minutes of a processor (user and system, with those of its workers), and its
schedule ends with the last one. That one is scored once on the test images.

write-up: the reference of 78.55 %, whose settings are in reference/cifar10_conv_fixed.yaml
CCT: CCT-2/3x2 with the settings of its authors' script for a processor
timm: timm's vit_tiny with patches of 4 pixels, by DeiT's recipe, in a plain loop (duel_timm.py)
plain, stem: cifar10_plain_cpu.yaml and cifar10_cpu.yaml

All but timm's are trained by `vitlit fit`. Results are kept in duel.jsonl as soon as they are
there: the same command trains only what is missing. --write makes duel.md and its picture.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import kept_scores
import measure
import torch
import yaml
from recipe import reached, vitlit
from recipe_options import as_files
from recipe_record import write_section

from vitlit import ImageData
from vitlit.data.catalog import SOURCES
from vitlit.images.image_store import file_paths

HERE = Path(__file__).parent
CIFAR10 = SOURCES["cifar10"]
WAYS: dict[str, tuple[str, str | None]] = {
    "write-up": ("ViT 192 x 12, `cifar10_conv_fixed`", "reference/cifar10_conv_fixed.yaml"),
    "CCT": ("CCT-2/3x2, its authors' script", str(HERE / "duel_cct.yaml")),
    "timm": ("timm's vit_tiny, DeiT's recipe", None),
    "plain": ("`cifar10_plain_cpu.yaml`", "cifar10_plain_cpu.yaml"),
    "stem": ("`cifar10_cpu.yaml`", "cifar10_cpu.yaml"),
}
FIRST, SHORT, LONGER = 2, 10, 70  # batches; the last two differ by what steps cost
COLOURS = ["#c44e52", "#dd8452", "#8172b3", "#4c72b0", "#55a868"]
HELD_OUT = 0.1  # of the training images, as val_fraction says
VALIDATION = 1 / 3  # of a training step's cost for as many images: no backward pass


@dataclass(frozen=True)
class Place:
    """Where and how all are trained."""

    data_dir: Path
    folder: Path
    precision: str

    def files(self) -> dict[str, list[tuple[str, int]]]:
        """Path and class of each image, by split; looked up once."""
        kept = self.folder / "files.json"
        if not kept.exists():
            kept.write_text(json.dumps(image_files(self.data_dir)))
        found: dict[str, list[tuple[str, int]]] = json.loads(kept.read_text())
        return found


@dataclass(frozen=True)
class Result:
    """What one way reached.

    val: accuracy of the images held out after each epoch; seconds: of the processor, in all.
    """

    name: str
    minutes: float
    machine: str
    precision: str
    epochs: int
    seconds: float
    val: Sequence[float]
    test: float


def processor_seconds() -> float:
    """Of all processes that this one has started and seen end, with their workers."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(
    name: str, place: Place, epochs: int, batches: int | None = None, run: str = "duel"
) -> float:
    """Seconds of the processor; the run is in a folder of the way's name."""
    folder, before = place.folder / name, processor_seconds()
    folder.mkdir(exist_ok=True)
    if WAYS[name][1] is None:
        return _train_timm(place, folder, epochs, batches)
    limit = [] if batches is None else [f"--trainer.limit_train_batches={batches}"]
    quiet = ["--trainer.enable_progress_bar=false", f"--trainer.max_epochs={epochs}"]
    precision = f"--trainer.precision={place.precision}"
    vitlit(["fit", *options(name, place), precision, *quiet, *limit, f"--run={run}"], folder)
    return processor_seconds() - before


def options(name: str, place: Place) -> list[str]:
    """A recipe may hold out fewer images; here all hold out the same."""
    data = [*as_files("cifar10"), f"--data.data_dir={place.data_dir}"]
    return [f"--config={WAYS[name][1]}", *data, f"--data.val_fraction={HELD_OUT}"]


def _train_timm(place: Place, folder: Path, epochs: int, batches: int | None) -> float:
    """Without its test, which `vitlit fit` has not either."""
    place.files()
    command = [sys.executable, str(HERE / "duel_timm.py"), str(place.folder / "files.json")]
    command += [str(folder / "found.json")]
    command += [f"--epochs={epochs}", f"--precision={place.precision}"]
    command += [] if batches is None else [f"--batches={batches}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"duel_timm.py\n{done.stderr.strip()[-2000:]}")
    seconds: float = json.loads((folder / "found.json").read_text())["seconds"]
    return seconds


def image_files(data_dir: Path) -> dict[str, list[tuple[str, int]]]:
    """Path and class of each image, by split: those of `vitlit fit` with split_seed 0."""
    data = ImageData(
        dataset="folder",
        data_dir=str(data_dir),
        img_size=CIFAR10.size,
        mean=list(CIFAR10.mean),
        std=list(CIFAR10.std),
        patch_size=4,
        val_fraction=HELD_OUT,
    )
    data.setup("fit")
    data.setup("test")
    found = {}
    for name, split in data.splits.items():
        paths = file_paths(split.images)
        members = zip(split.members.tolist(), split.labels.tolist(), strict=True)
        found[name] = [(str(paths[index]), label) for index, label in members]
    return found


def epochs_within(seconds: float, name: str, place: Place, images: dict[str, int]) -> int:
    """From two short trainings: what starting costs, and a step. One before them decodes images."""
    train(name, place, 1, FIRST, "first")
    short, longer = (
        train(name, place, 1, batches, f"short{batches}") for batches in (SHORT, LONGER)
    )
    step = (longer - short) / (LONGER - SHORT)
    batch = batch_size(name, place)
    epoch = step * (images["train"] + VALIDATION * images["val"]) / batch
    start = max(0.0, short - step * (SHORT + VALIDATION * images["val"] / batch))
    return max(1, int((seconds - start) / epoch))


def batch_size(name: str, place: Place) -> int:
    if WAYS[name][1] is None:
        size: int = json.loads((place.folder / name / "found.json").read_text())["batch_size"]
        return size
    config = place.folder / name / "lightning_logs" / f"short{SHORT}" / "config.yaml"
    return yaml.safe_load(config.read_text())["data"]["batch_size"]


def scored(name: str, place: Place) -> tuple[list[float], float]:
    """Accuracy of the images held out, by epoch, and of the test images at the end."""
    if WAYS[name][1] is None:
        found = json.loads((place.folder / name / "found.json").read_text())
        return found["val"], found["test"]
    run = place.folder / name / "lightning_logs" / "duel"
    with (run / "history.csv").open(newline="") as file:
        val = [float(row["val/acc"]) for row in csv.DictReader(file)]
    command = ["test", f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"]
    return val, reached(vitlit([*command, f"--data.data_dir={place.data_dir}"], run.parent.parent))


def compete(name: str, place: Place, args: argparse.Namespace) -> Result:
    images = {split: len(files) for split, files in place.files().items()}
    within = 60 * args.minutes
    epochs = 1 if args.quick else epochs_within(within, name, place, images)
    print(f"{name}: {epochs} epoch{'s' * (epochs > 1)}", flush=True)
    seconds = train(name, place, epochs, 3 if args.quick else None)
    val, test = scored(name, place)
    machine = measure.device_name("cpu", torch.get_num_threads())
    return Result(
        name, args.minutes, machine, place.precision, len(val), round(seconds, 1), val, test
    )


def read(path: Path) -> list[Result]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [Result(**json.loads(line)) for line in lines]


def text_of(results: list[Result]) -> str:
    heads = ["", "epochs", "processor, min", "validation", "test"]
    rows = [
        [
            WAYS[result.name][0],
            str(result.epochs),
            f"{result.seconds / 60:.1f}",
            f"{result.val[-1]:.4f}",
            f"{result.test:.4f}",
        ]
        for result in sorted(results, key=lambda result: -result.test)
    ]
    first = results[0]
    return (
        f"{datetime.now(UTC).date()}, {first.machine}, {first.precision}, {measure.packages()}\n\n"
        f"`{measure.command()}`\n\nCIFAR-10 (JPEG), one seed, the last epoch, "
        f"{first.minutes:g} minutes of a processor for each.\n\n{kept_scores.table(heads, rows)}"
    )


def draw(results: list[Result], path: Path) -> None:
    """Accuracy of the images held out against processor minutes; all epochs cost the same."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    for result in results:
        each = result.seconds / 60 / result.epochs
        minutes = [each * (epoch + 1) for epoch in range(result.epochs)]
        axes.plot(
            minutes,
            [100 * value for value in result.val],
            color=COLOURS[list(WAYS).index(result.name)],
            linewidth=1.4,
            marker="o",  # one epoch alone is no line
            markersize=3.5,
            label=f"{WAYS[result.name][0].replace('`', '')}: {100 * result.test:.1f} % on test",
        )
    axes.set(xlabel="minutes of a processor", ylabel="validation accuracy, %")
    axes.set_title("CIFAR-10 (JPEG), the same processor time", fontsize="medium")
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=130)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=60.0, help="of a processor, each")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--quick", action="store_true", help="three steps each: does it run?")
    parser.add_argument("--write", action="store_true", help="into duel.md, and the picture")
    args = parser.parse_args()
    if args.minutes <= 0:
        parser.error(f"--minutes {args.minutes} is not positive")
    if not (args.data_dir / "train").is_dir():
        parser.error(f"--data-dir {args.data_dir}: there is no folder train in it")
    if args.quick and args.write:
        parser.error("--quick is too short to keep; leave it out, or --write")
    return args


def main() -> None:
    args = parse_args()
    kept = Path(__file__).with_suffix(".jsonl")
    with tempfile.TemporaryDirectory() as temporary:
        place = Place(args.data_dir.absolute(), Path(temporary), args.precision)
        machine = measure.device_name("cpu", torch.get_num_threads())
        same = (args.minutes, machine, args.precision)
        there = [one for one in read(kept) if (one.minutes, one.machine, one.precision) == same]
        results = [] if args.quick else there
        for name in args.only:
            if name in [one.name for one in results]:
                continue
            results.append(compete(name, place, args))
            print(text_of(results), flush=True)
            if not args.quick:
                with kept.open("a") as file:
                    file.write(json.dumps(asdict(results[-1])) + "\n")
    if args.write:
        title = f"{args.minutes:g} minutes, {args.precision}, {machine}"
        write_section(Path(__file__).with_suffix(".md"), title, text_of(results))
        draw(results, HERE.parent / "docs" / "pictures" / "duel.png")


if __name__ == "__main__":
    main()
