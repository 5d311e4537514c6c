"""Train a shipped recipe, score its last epoch on the test set once, and say what it cost.

Each seed is a `vitlit fit` and a `vitlit test` in processes of their own. With --verify the mean is
held against the recipe's first lines (`# expected: test/acc 0.9836 +- 0.0050 (...)`): it passes if
it is no lower than the figure less twice its spread, or less 0.003 where that is more.

    python benchmarks/recipe.py digits.yaml --split-seeds 0 1 2
    python benchmarks/recipe.py mnist.yaml --data-dir ~/data --seeds 0 1 2 --verify
    python benchmarks/recipe.py cifar10.yaml --data-dir DIR --folder --budget-minutes 8 --write
    python benchmarks/recipe.py cifar10_cpu.yaml --data-dir DIR --folder --trained RUN --write

images/s are training images over the median epoch's seconds, from the end of one epoch to the end
of the next as TensorBoard's log has them: validation and checkpoints count, start-up does not.
--folder takes DIR/train/CLASS and DIR/test/CLASS in place of the recipe's own files, at its size
and with its mean and standard deviation. --trained takes a finished run of `vitlit fit`; its time
is that of the median epoch, times the epochs, since it may have been stopped. --write adds a
section to recipe.md, keeps all predictions in predictions/, and puts the figures into README's
table and the recipe's first lines; a run with other settings than the recipe's gets a section, a
row and a file of its own, named by what differs, and leaves those lines as they are; so does one
from published weights, which --weights names. What follows `--` goes to `vitlit fit` as it is.
"""

import argparse
import csv
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import measure
import torch
import yaml
from kept_scores import spread
from recipe_changes import Settings, changes, how_computed
from recipe_options import data_options, parse_args
from recipe_record import (
    Energy,
    Predictions,
    duration,
    file_of,
    how_often,
    keep_predictions,
    predictions_of,
    set_expected,
    set_row,
    verdict,
    write_section,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitlit import load
from vitlit.cli.configs import find_config


@dataclass
class Run:
    """What one training reached, and what it cost."""

    last: float  # test accuracy of the last epoch
    best: float  # of the epoch that validated best
    seconds: float  # of the whole `vitlit fit`
    epochs: int
    speed: float  # training images a second, validation and logging included, start-up not
    petaflops: float  # 10**15 operations of all training steps
    precision: str
    predictions: Predictions  # of the last epoch
    settings: Settings  # all, as the run's config.yaml has them
    joules: float | None = None  # of the processor, by `vitlit fit`, where it can be read


def vitlit(args: list[str], folder: Path) -> str:
    """Run a command there; what it printed."""
    command = [sys.executable, "-m", "vitlit", *args]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(args)}\n{result.stderr.strip()[-2000:]}")
    return result.stdout


def reached(text: str) -> float:
    found = re.search(r"test/acc (0\.\d+|1\.0+)", text)
    if not found:
        sys.exit(f"no test/acc in: {text}")
    return float(found[1])


def epochs_of(run: Path) -> tuple[list[int], list[float]]:
    """Optimiser steps done, and the time, at the end of each epoch."""
    events = EventAccumulator(str(run)).Reload().Scalars("train/loss_epoch")
    return [event.step + 1 for event in events], [event.wall_time for event in events]


def seconds_of(run: Path) -> float:
    """Of its epochs, as its table has them."""
    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def images_per_second(run: Path, batch: int) -> float:
    """The median epoch's, from the end of the one before."""
    ends = zip(*epochs_of(run), strict=True)
    return median(batch * (b - a) / (t - s) for (a, s), (b, t) in pairwise(ends))


def training_petaflops(checkpoint: Path, images: int) -> float:
    """Forward, and twice as much backward, for each image: counted on one."""
    model, preprocess, _ = load(checkpoint)
    # By the mathematical kernel: before torch 2.15 the fused one for CPUs is not counted.
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        model(torch.zeros(1, preprocess.in_chans, *preprocess.img_size))
    return 3 * counter.get_total_flops() * images / 1e15


def train(options: list[str], tests: list[str], folder: Path) -> Run:
    folder.mkdir(parents=True)
    energy, start = Energy(), time.perf_counter()
    vitlit(["fit", *options, "--run=recipe", "--trainer.enable_progress_bar=false"], folder)
    seconds, joules = time.perf_counter() - start, energy.joules()
    return replace(scored(folder / "lightning_logs" / "recipe", tests, seconds), joules=joules)


def newest_report(run: Path) -> Path:
    """The last checkpoint's: each that is tested gets a folder, test_report, test_report-2, …"""
    found = run.glob("test_report*/metrics.json")
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent


def scored(run: Path, tests: list[str], seconds: float | None = None) -> Run:
    """What a finished run reached; seconds: of the training, by default by its median epoch."""
    checkpoints = run.absolute() / "checkpoints"
    printed = {
        name: vitlit(["test", f"--ckpt_path={checkpoints / name}.ckpt", *tests], run.parent.parent)
        for name in ("best", "last")  # the report of the last is the newest
    }
    config = yaml.safe_load((run / "config.yaml").read_text())
    batch = config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"]
    steps, times = epochs_of(run)
    own = [b - a for a, b in pairwise(times)]
    predictions = predictions_of(newest_report(run))
    return Run(
        float((predictions.labels == predictions.predicted).mean()),  # printed with four digits
        reached(printed["best"]),
        seconds or (median(own) * len(steps) if own else seconds_of(run)),
        len(steps),
        images_per_second(run, batch) if own else float("nan"),
        training_petaflops(checkpoints / "last.ckpt", batch * steps[-1]),
        config["trainer"]["precision"],
        predictions,
        config,
    )


def epochs_within(minutes: float, options: list[str], folder: Path) -> int:
    """How many epochs fit, from a run of three: its start-up, and the seconds of its last one."""
    folder.mkdir(parents=True)
    start = time.perf_counter()
    quick = ["--trainer.max_epochs=3", "--trainer.enable_progress_bar=false"]
    vitlit(["fit", *options, "--run=recipe", *quick], folder)
    total = time.perf_counter() - start
    _, times = epochs_of(folder / "lightning_logs" / "recipe")
    epoch = times[2] - times[1]
    found = max(1, int((60 * minutes - (total - 3 * epoch)) / epoch))
    print(f"{epoch:.2f} s an epoch, {total - 3 * epoch:.0f} s of start-up: {found} epochs")
    return found


def table(runs: dict[str, Run]) -> str:
    heads = ["seed", "last epoch", "best epoch", "fit, s", "epochs", "images/s", "PFLOP"]
    heads += ["precision", "energy, kJ"]
    lines = [measure.row(heads), measure.row(["---"] * len(heads))]
    for name, run in runs.items():
        cells = [name, f"{run.last:.4f}", f"{run.best:.4f}", f"{run.seconds:.0f}", str(run.epochs)]
        cells += [f"{run.speed:,.0f}", f"{run.petaflops:.3g}"]
        cells += [how_computed(run.precision, run.settings)]
        cells += ["not readable" if run.joules is None else f"{run.joules / 1000:.1f}"]
        lines.append(measure.row(cells))
    scores, often = [run.last for run in runs.values()], f"{len(runs)} run{'s' * (len(runs) > 1)}"
    lines += ["", f"last epoch: {spread(scores)} ({often})"]
    return "\n".join(lines) + "\n"


def records(title: str, run: Run) -> list[dict[str, Any]]:
    """Each figure as the other benchmarks write theirs; no ratios, since nothing is compared."""
    values = {
        "test/acc, last epoch": run.last,
        "test/acc, best epoch": run.best,
        "s": run.seconds,
        "epochs": run.epochs,
        "images/s": run.speed,
        "PFLOP": run.petaflops,
        "J": float("nan") if run.joules is None else run.joules,
    }
    return [
        {"name": title, "value": value, "unit": unit, "ratio_to": None, "ratio": None}
        for unit, value in values.items()
        if not math.isnan(value)  # the speed of a single epoch, energy that cannot be read
    ]


def main() -> None:
    args = parse_args(__doc__.split("\n", 1)[0])
    data, source = data_options(args)
    options = [f"--config={find_config(args.config).absolute()}", *data, *args.rest]
    flag = "seed_everything" if args.split_seeds is None else "data.split_seed"
    seeds = args.split_seeds or args.seeds
    if args.quick:
        seeds, options = seeds[:1], [*options, "--trainer.max_epochs=2"]
    runs: dict[str, Run] = {}
    if args.trained:
        seed = yaml.safe_load((args.trained / "config.yaml").read_text())["seed_everything"]
        seeds, runs = [], {f"seed_everything {seed}": scored(args.trained, data[:1])}
        print(table(runs), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        name = args.keep or temporary
        if args.budget_minutes:
            epochs = epochs_within(args.budget_minutes, options, Path(name) / "probe")
            options.append(f"--trainer.max_epochs={epochs}")
        for seed in seeds:
            folder = Path(name) / str(seed)
            runs[f"{flag} {seed}"] = train([*options, f"--{flag}={seed}"], data[:1], folder)
            print(table(runs), flush=True)
    finish(args, source, runs)


def shipped_name(config: str) -> str:
    """A recipe's path in configs/, if it is from there, in this tree or in the installed one."""
    path = find_config(config).absolute()
    folder = next((one for one in path.parents if one.name == "configs"), path.parent)
    return path.relative_to(folder).as_posix()


def finish(args: argparse.Namespace, source: str, runs: dict[str, Run]) -> None:
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    where = measure.device_name(kind, torch.get_num_threads())
    settings = next(iter(runs.values())).settings
    own = recipe_settings(args.config, settings["model"]["pretrained"])
    changed = changes(own, settings, args.weights)
    name = " ".join(filter(None, [shipped_name(args.config), changed]))
    title = f"{name}, {source}, {where}"
    scores = [run.last for run in runs.values()]
    if args.json:
        found = [one for seed, run in runs.items() for one in records(f"{title}: {seed}", run)]
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    if args.write:
        text = f"{datetime.now(UTC).date()}, `{measure.command()}`\n\n{table(runs)}"
        write_section(Path(__file__).with_suffix(".md"), title, text)
        record(args, runs, changed, source, where)
    if args.verify:
        sys.exit(verdict(args.config, scores))


def recipe_settings(config: str, pretrained: str | None) -> Settings:
    """All, with the defaults, or those of published weights, of what it does not name."""
    options = ["fit", f"--config={find_config(config).absolute()}", "--print_config"]
    options += [f"--model.pretrained={pretrained}"] if pretrained else []
    found: Settings = yaml.safe_load(vitlit(options, Path.cwd()))
    return found


def record(
    args: argparse.Namespace, runs: dict[str, Run], changed: str, source: str, where: str
) -> None:
    """Keep the predictions, and put the figures into README and into a shipped recipe.

    changed: the options that the runs had besides the recipe's.
    """
    here, name = Path(__file__).parent, Path(shipped_name(args.config))
    config = here.parent / "configs" / name
    if not config.is_file():  # a recipe of one's own
        return
    label = " ".join(filter(None, [str(name), changed]))
    found = {seed: run.predictions for seed, run in runs.items()}
    keep_predictions(here / "predictions" / file_of(label), found)
    scores = [run.last for run in runs.values()]
    how = ", ".join([*([source] if args.folder else []), how_often(runs), "final epoch"])
    one, seconds = next(iter(runs.values())), max(run.seconds for run in runs.values())
    cost = f"{duration(seconds)}, {where}, {how_computed(one.precision, one.settings)}"
    if not changed:
        set_expected(config, f"test/acc {spread(scores)} ({how}; {cost})")
    set_row(here.parent / "README.md", label, [spread(scores, "±"), how, cost])


if __name__ == "__main__":
    main()
