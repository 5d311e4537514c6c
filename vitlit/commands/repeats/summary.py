"""The summary of a series: mean, spread and intervals of what its tests found.

test_report/metrics.json of each training -> scores by name -> summary.csv, summary.json, lines

The interval of the mean takes the trainings for independent. Those of folds share most of their
training images, and repeats most of their test images too, so it tends to be too narrow (Bengio and
Grandvalet, 2004).
"""

import csv
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitlit.cli.series import Series
from vitlit.evaluation.significance import spread, wilson
from vitlit.files import (
    BEST_FILE,
    CHECKPOINTS_FOLDER,
    LAST_FILE,
    METRICS_FILE,
    REPORT_FOLDER,
    SUMMARY_FILE,
    relative_path,
    replacing,
)
from vitlit.messages import counted, labelled

Scores = dict[str, float]  # by name; images, how many were tested, is among them
SECOND_SCORE = "loss"  # shown beside the main one


def find_report(run: Path, fold: str | None = None) -> Scores | None:
    """What the test of a run's best checkpoint found, if it was done; its last if it has no best.

    fold: that of the training, if it has one. Other reports, of other splits or with flipped
    images, do not count.
    """
    has_best = (run / CHECKPOINTS_FOLDER / BEST_FILE).exists()  # else it was never validated
    tested = BEST_FILE if has_best else LAST_FILE
    for folder in [run / REPORT_FOLDER, *sorted(run.glob(f"{REPORT_FOLDER}-*"))]:
        try:
            found = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
            about, scores = found["of"], found["scores"]
            is_best = str(about["weights"]).endswith(tested) and not about["flip"]
            is_own = about["split"] == "test" and fold in (None, about.get("fold"))
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not a report
            continue
        if is_best and is_own:
            return {k: v for k, v in scores.items() if isinstance(v, int | float)}
    return None


def score_line(name: str, scores: Scores) -> str:
    """What the test of one training found."""
    shown = [f"test/{key} {scores[key]:.4f}" for key in _shown([scores])]
    return labelled(name, f"{'  '.join(shown)}  ({counted(int(scores['images']), 'image')})")


def _score_names(reports: Sequence[Scores]) -> list[str]:
    """The scores that all trainings have, the main one first."""
    # counts, such as that of the images, are whole numbers
    floats = [name for name, value in reports[0].items() if isinstance(value, float)]
    return [name for name in floats if all(name in one for one in reports)]


def _shown(reports: Sequence[Scores]) -> list[str]:
    names = _score_names(reports)
    return [name for name in names if name in (names[0], SECOND_SCORE)]


def pooled(reports: Sequence[Scores]) -> tuple[int, int] | None:
    """How many images were right, and how many there are, of all tests together."""
    if not all("acc" in one for one in reports):
        return None
    right = sum(round(one["acc"] * one["images"]) for one in reports)
    return right, sum(int(one["images"]) for one in reports)


def write_summary(series: Series, reports: Sequence[Scores]) -> None:
    """Write summary.csv and summary.json into the folder of the series."""
    names = _score_names(reports)
    found = {name: spread([one[name] for one in reports]) for name in names}
    rows: list[list[Any]] = [["training", "images", *names]]
    for training, one in zip(series.names, reports, strict=True):
        rows.append([training, int(one["images"]), *(one[name] for name in names)])
    rows.append(["mean", "", *(one.mean for one in found.values())])
    rows.append(["std", "", *(one.std for one in found.values())])
    for end, word in enumerate(("low", "high")):
        rows.append([f"mean_{word}", "", *(one.interval[end] for one in found.values())])
    about: dict[str, Any] = {"kind": series.kind, "count": series.count}
    about["scores"] = {name: one._asdict() for name, one in found.items()}
    if series.kind == "folds" and (counts := pooled(reports)):
        share, (low, high) = counts[0] / counts[1], wilson(*counts)
        about["pooled"] = {"right": counts[0], "images": counts[1], "acc": share}
        about["pooled"]["acc_interval"] = [low, high]
    with (
        replacing(series.folder / SUMMARY_FILE) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows(rows)
    with replacing((series.folder / SUMMARY_FILE).with_suffix(".json")) as part:
        part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def summary_lines(series: Series, reports: Sequence[Scores]) -> list[str]:
    """The last lines: the mean of the main scores, its interval, and all images together."""
    lines = []
    for name in _shown(reports):
        one = spread([report[name] for report in reports])
        low, high = one.interval
        lines.append(
            labelled(
                "mean",
                f"test/{name} {one.mean:.4f} ± {one.std:.4f} (standard deviation of {series.count} "
                f"{series.kind}); 95 % interval of the mean {low:.4f} to {high:.4f}",
            )
        )
    if series.kind == "folds" and (counts := pooled(reports)):
        low, high = wilson(*counts)
        lines.append(
            labelled(
                "pooled",
                f"accuracy {counts[0] / counts[1]:.4f}: {counts[0]:,} of {counts[1]:,} images, "
                f"each tested once; 95 % interval {low:.4f} to {high:.4f} (Wilson)",
            )
        )
    lines.append(labelled("summary", relative_path(series.folder / SUMMARY_FILE)))
    lines.append(
        labelled("models", f"`vitlit runs {shlex.quote(relative_path(series.folder))}` lists them")
    )
    return lines
