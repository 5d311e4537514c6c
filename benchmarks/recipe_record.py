"""What recipe.py keeps of a measurement: all predictions, and the figures in README and recipe.

trainings -> predictions/<recipe>.csv, a row of README's table, the line `# expected:` of the recipe

The file holds a line for each test image and training, so that every score can be computed again:

    python benchmarks/recipe_record.py predictions/digits.csv
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vitlit.cli.configs import find_config

ENERGY = Path("/sys/class/powercap")  # of Linux, where the processor counts its energy
SLACK = 0.003  # a spread below this half is not believed
HEADS = ["seed", "label", "predicted"]
Labels = npt.NDArray[np.int64]


class Predictions(NamedTuple):
    """Class indices of the test images, in the order of the data set: int64 ``(n,)`` each."""

    labels: Labels
    predicted: Labels


def predictions_of(report: Path) -> Predictions:
    """From the folder that `vitlit test` wrote."""
    with np.load(report / "probabilities.npz", allow_pickle=False) as found:
        return Predictions(found["labels"], found["probabilities"].argmax(axis=1))


def file_of(label: str) -> str:
    """Of a row in README's table: ``digits.csv``, ``cifar10_cpu-trainer.max_epochs_30.csv``.

    label: a recipe's path in configs/, and the options that were added to it.
    """
    config, *options = label.split()
    words = "_".join(options).replace("--", "-").replace("_-", "-").replace("/", "_")
    return f"{config.removesuffix('.yaml')}{'-' * bool(words)}{words.removeprefix('-')}.csv"


def keep_predictions(path: Path, runs: Mapping[str, Predictions]) -> None:
    """One line for each image of each training; runs: by seeds such as ``data.split_seed 3``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADS)
        for name, found in runs.items():
            pairs = zip(found.labels.tolist(), found.predicted.tolist(), strict=True)
            writer.writerows((name.split()[-1], *pair) for pair in pairs)


def accuracies(path: Path) -> dict[str, float]:
    """Of each seed of such a file, in its order."""
    right: dict[str, list[bool]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            right.setdefault(row["seed"], []).append(row["label"] == row["predicted"])
    return {name: mean(found) for name, found in right.items()}


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def how_often(names: Iterable[str]) -> str:
    """In words, from names such as ``seed_everything 0``."""
    kinds = [name.split()[0] for name in names]
    kind = {"seed_everything": "seed", "data.split_seed": "split"}[kinds[0]]
    return f"{len(kinds)} {kind}{'s' if len(kinds) > 1 else ''}"


def write_section(path: Path, title: str, text: str) -> None:
    """Replace the section of this title, or add it."""
    old = path.read_text() if path.exists() else f"# {path.stem.replace('_', ' ').capitalize()}\n"
    parts = re.split(r"^(?=## )", old, flags=re.MULTILINE)
    kept = [part.rstrip() for part in parts if not part.startswith(f"## {title}\n")]
    path.write_text("\n\n".join([*kept, f"## {title}\n\n{text.strip()}"]) + "\n")


def set_expected(recipe: Path, text: str) -> None:
    """Replace the figure in the recipe's first lines. Raises ValueError if there is none."""
    old = recipe.read_text(encoding="utf-8")
    new, found = re.subn(r"^# expected: .*$", f"# expected: {text}", old, flags=re.MULTILINE)
    if found != 1:
        raise ValueError(f"{recipe} has {found} lines that start with '# expected: ', not one")
    recipe.write_text(new, encoding="utf-8")


def set_row(readme: Path, config: str, cells: Iterable[str]) -> None:
    """Replace the row of a recipe in the table of results, or add it as the last.

    Raises ValueError if there is no such table.
    """
    before, heading, rest = readme.read_text(encoding="utf-8").partition("| config |")
    table, gap, after = rest.partition("\n\n")
    if not (heading and gap):
        raise ValueError(f"{readme} has no table that starts with '| config |'")
    first = f"| `{config}` |"
    row = " ".join([first, *(f"{cell} |" for cell in cells)])
    lines = [row if line.startswith(first) else line for line in table.split("\n")]
    lines += [] if row in lines else [row]
    readme.write_text(before + heading + "\n".join(lines) + gap + after, encoding="utf-8")


def expected(config: str) -> tuple[float, float] | None:
    """Accuracy and spread in the recipe's first lines; None where it states none."""
    text = find_config(config).read_text()
    found = re.search(r"^# expected: test/acc (0\.\d+)(?: \+- (0\.\d+))?", text, re.MULTILINE)
    return (float(found[1]), float(found[2] or 0.0)) if found else None


def verdict(config: str, scores: list[float]) -> int:
    """Print pass or fail of a recipe that says what it reaches; the exit status: 0 or 1."""
    goal = expected(config)
    assert goal is not None
    least = goal[0] - max(2 * goal[1], SLACK)
    passed = mean(scores) >= least
    print(f"{'PASS' if passed else 'FAIL'}: {mean(scores):.4f}, expected at least {least:.4f}")
    return 0 if passed else 1


class Energy:
    """The processor's energy since the start, in joules; None where it cannot be read."""

    def __init__(self, folder: Path = ENERGY) -> None:
        self._zones = [zone for zone in folder.glob("*:*") if zone.name.count(":") == 1]
        self._start = list(self._counts())

    def _counts(self) -> Iterator[int]:
        """Microjoules of each package; only root may read them on most systems."""
        for zone in self._zones:
            try:
                yield int((zone / "energy_uj").read_text())
            except OSError:
                return

    def joules(self) -> float | None:
        now = list(self._counts())
        if not now or len(now) != len(self._start):
            return None
        total = 0
        for zone, old, new in zip(self._zones, self._start, now, strict=True):
            # the counter starts again at its highest value, once if the run was not too long
            top = int((zone / "max_energy_range_uj").read_text()) if new < old else 0
            total += new - old + top
        return total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute the scores of kept predictions again.")
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    try:
        found = accuracies(args.file)
    except OSError as error:
        sys.exit(f"{args.file}: {error.strerror}")
    print(*(f"seed {name}: {accuracy:.4f}" for name, accuracy in found.items()), sep="\n")


if __name__ == "__main__":
    main()
