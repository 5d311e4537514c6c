"""Scores of the sweep over inductive biases: kept in a file, as a table, as a picture.

one line for each training -> mean and standard deviation over the seeds, by setting and share
"""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

import measure

CNN = "CNN"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # Okabe and Ito, 2008
MARKERS = "osD^vP"


class Score(NamedTuple):
    """Test accuracy of one training.

    share: of the training images that are 100 %; images: how many that is; recipe: digest of all
    that decides the training but share and seed; seconds: of the processor, on a GPU of the clock.
    """

    recipe: str
    setting: str
    share: float
    seed: int
    images: int
    steps: int
    accuracy: float
    seconds: float


def append(path: Path, score: Score) -> None:
    """Add a line in one write, so that processes can share the file and a stop loses nothing."""
    line = ",".join(str(value) for value in score) + "\n"
    old = path.read_bytes() if path.exists() else (",".join(Score._fields) + "\n").encode()
    head = b"" if path.exists() else old
    gap = b"" if old.endswith(b"\n") else b"\n"  # after a line that was cut short
    with path.open("ab", buffering=0) as file:
        file.write(head + gap + line.encode())
        os.fsync(file.fileno())


def read(path: Path) -> list[Score]:
    """All scores of a file, none where there is no file; a line that was cut short is left out."""
    if not path.exists():
        return []
    types = Score.__annotations__.values()
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(Score._fields)]
    whole = [row for row in rows if row[0] != Score._fields[0]]
    return [Score(*(kind(cell) for kind, cell in zip(types, row, strict=True))) for row in whole]


def spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f}" + (f" +- {stdev(values):.4f}" if len(values) > 1 else "")


def names(scores: Iterable[Score]) -> list[str]:
    return list(dict.fromkeys(score.setting for score in scores))


def shares(scores: Iterable[Score]) -> dict[float, tuple[int, int]]:
    """Images and steps of each share, smallest first."""
    return {s.share: (s.images, s.steps) for s in sorted(scores, key=lambda s: s.share)}


def accuracies(scores: Iterable[Score], name: str, share: float) -> list[float]:
    return [s.accuracy for s in scores if (s.setting, s.share) == (name, share)]


def table(scores: Sequence[Score]) -> str:
    """Mean and standard deviation over the seeds, a row for each setting."""
    found = shares(scores)
    heads = ["setting", *(f"{share:.0%}" for share in found), "seconds"]
    counts = ["images", *(str(images) for images, _ in found.values()), ""]
    steps = ["steps", *(str(steps) for _, steps in found.values()), ""]
    lines = [heads, ["---"] * len(heads), counts, steps]
    for name in names(scores):
        cells = [spread(accuracies(scores, name, share)) for share in found]
        most = [s.seconds for s in scores if (s.setting, s.share) == (name, max(found))]
        lines.append([name, *cells, f"{median(most):.0f}"])
    return "\n".join(map(measure.row, lines)) + "\n"


def draw(scores: Sequence[Score], known: Sequence[str], title: str, path: Path) -> None:
    """One line for each setting: the mean over the seeds, and bars of a standard deviation.

    known: settings in the order of their colours, the same in every picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.subplots()
    drawn, found = names(scores), shares(scores)
    for number, name in enumerate(drawn):
        values = [accuracies(scores, name, share) for share in found]
        place = 0 if name == CNN else known.index(name) % len(COLOURS)
        shift = 1.05 ** (number - (len(drawn) - 1) / 2)  # so that bars stand beside each other
        axes.errorbar(
            [100 * share * shift for share in found],
            [100 * mean(own) for own in values],
            yerr=[100 * stdev(own) if len(own) > 1 else 0.0 for own in values],
            label=name,
            linestyle="--" if name == CNN else "-",
            color="black" if name == CNN else COLOURS[place],
            marker="x" if name == CNN else MARKERS[place],
            markersize=5,
            linewidth=1.3,
            capsize=2,
        )
    axes.set_xscale("log")
    labels = [f"{share:.0%}\n{images:,}" for share, (images, _) in found.items()]
    axes.set_xticks([100 * share for share in found], labels)
    axes.minorticks_off()
    axes.set(xlabel="share and number of the training images", ylabel="test accuracy, %")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=130)
