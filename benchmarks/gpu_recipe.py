"""Train a shipped recipe for as many epochs as a time budget holds, seed by seed.

A probe of three epochs measures start-up and images a second; the epochs follow from these, so that
all seeds end within the budget. Accuracy of the last epoch on the test set, time and speed are
written after each seed, and all predictions into a CSV file beside them: a budget that is cut short
keeps what it has.

    python benchmarks/gpu_recipe.py cifar10.yaml --data-dir DIR --minutes 9 --out FILE
    python benchmarks/gpu_recipe.py digits.yaml --minutes 2 --seeds 0 1 --out FILE --model.depth 2
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import measure
import recipe
import torch
from recipe_record import Predictions, keep_predictions

from vitlit.cli.configs import find_config
from vitlit.errors import InputError

RESERVE = 0.93  # share of the budget that is planned: epochs and start-up vary
PROBE_EPOCHS = 3  # the first one is slower, and one more is needed to see it


def epochs_that_fit(seconds: float, start_up: float, epoch: float) -> int:
    """Epochs of one seed, 0 if not one fits; all arguments are in seconds."""
    return max(0, int((RESERVE * seconds - start_up) / epoch))


def probe(options: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of start-up and scoring, and of an epoch, from a training and its two scores."""
    start = time.monotonic()
    short = [f"--trainer.max_epochs={PROBE_EPOCHS}"]
    recipe.train([*options, *short], [], folder)
    total = time.monotonic() - start
    _, ends = recipe.epochs_of(folder / "lightning_logs" / "recipe")
    epoch = ends[-1] - ends[-2]
    return total - PROBE_EPOCHS * epoch, epoch


def write_now(path: Path, content: Any) -> None:
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(path)


def summary(seeds: dict[str, Any]) -> dict[str, Any]:
    """Mean and spread of the accuracy of the last epoch."""
    scores = [run["last"] for run in seeds.values()]
    spread = stdev(scores) if len(scores) > 1 else None
    return {"test/acc": mean(scores), "spread": spread, "seeds": len(scores)}


def run_seeds(args: argparse.Namespace, options: list[str], folder: Path) -> dict[str, Any]:
    end = time.monotonic() + 60 * args.minutes
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    content: dict[str, Any] = {
        "recipe": args.config,
        "head": f"{measure.device_name(kind, torch.get_num_threads())}, {measure.packages()}",
        "minutes": args.minutes,
        "seeds": {},
    }
    start_up, epoch = probe(options, folder / "probe")
    content["probe"] = {"start-up, s": start_up, "epoch, s": epoch}
    write_now(args.out, content)
    predictions: dict[str, Predictions] = {}
    for place, seed in enumerate(args.seeds):
        share = (end - time.monotonic()) / (len(args.seeds) - place)
        # All seeds train equally long, or their scores would not compare.
        fitting = min(args.max_epochs, epochs_that_fit(share, start_up, epoch))
        epochs = content.setdefault("epochs", fitting)
        needed = start_up + epochs * epoch
        if epochs < 1 or (place and needed > end - time.monotonic()):
            print(f"no time for seed {seed}: {needed:.0f} s needed", file=sys.stderr)
            break
        more = [f"--trainer.max_epochs={epochs}", f"--seed_everything={seed}"]
        run = recipe.train([*options, *more], args.tests, folder / str(seed))
        predictions[str(seed)] = run.predictions
        keep_predictions(args.out.with_suffix(".csv"), predictions)
        told = {name: value for name, value in vars(run).items() if name != "predictions"}
        content["seeds"][str(seed)] = told
        content["summary"] = summary(content["seeds"])
        write_now(args.out, content)
        print(f"seed {seed}: {run.last:.4f} after {epochs} epochs, {run.speed:,.0f} images/s")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        epilog="Other options, such as --model.depth 6, go to `vitlit fit`.",
    )
    parser.add_argument("config", help="name of a shipped recipe, or a path")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0, help="for the probe and all seeds")
    parser.add_argument("--max-epochs", type=int, default=10**6, help="no more, if more fit")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON")
    args, rest = parser.parse_known_args()
    if args.minutes <= 0:
        parser.error(f"--minutes {args.minutes} is not positive")
    if args.max_epochs < 1:
        parser.error(f"--max-epochs {args.max_epochs} is not positive")
    if not args.out.absolute().parent.is_dir():
        parser.error(f"--out {args.out}: there is no such folder")
    args.out = args.out.absolute()
    args.tests = [f"--data.data_dir={args.data_dir.absolute()}"] if args.data_dir else []
    try:
        config = find_config(args.config).absolute()  # trainings have a folder of their own
    except InputError as error:
        parser.error(str(error))
    options = [f"--config={config}", *args.tests, *(word for word in rest if word != "--")]
    with tempfile.TemporaryDirectory() as folder:
        content = run_seeds(args, options, Path(folder))
    sys.exit(0 if len(content["seeds"]) == len(args.seeds) else 1)


if __name__ == "__main__":
    main()
