"""The parts of a report on images that may have several classes: tables, files, page, figures.

logits (n, K), targets (n, K) of 0 and 1 -> metrics.json classes.csv mistakes.csv index.html
                                            classes.png mistakes.png
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitlit.data.datamodule import PlainImageData
from vitlit.evaluation.calibration import Calibration
from vitlit.evaluation.figures import bars_height, draw_class_bars, picture_sheet
from vitlit.evaluation.inference import Rows
from vitlit.evaluation.report_page import Mistake, Section, mistake_parts, write_page
from vitlit.files import printable
from vitlit.html_page import facts_part
from vitlit.messages import labelled
from vitlit.plotting import new_figure, set_title
from vitlit.tasks.loss import binary_cross_entropy
from vitlit.tasks.multi_label import MultiLabel
from vitlit.tasks.multi_label_scores import average_precision, counts, f1_scores
from vitlit.tasks.regression_scores import interval_of

RESAMPLES = 500  # of the images, for the intervals
MAX_RESAMPLED = 2_000_000  # probabilities; of more there are no intervals, which would take minutes
SHOWN_MISTAKES, SHOWN_CLASSES = 24, 40  # on the page, and as bars in the figure
SCORE_NAMES = {
    "f1": "mean F1",
    "f1_micro": "F1 of all labels",
    "exact": "images with all labels right",
    "loss": "loss",
}
FOOTER = (
    "An image has a class if its probability is above the threshold of the class. Average "
    "precision is the area under precision by recall; its mean leaves out classes without images. "
    f"The intervals are of 95 %, from {RESAMPLES} resamples of the images. The files beside this "
    "page hold all numbers: metrics.json, classes.csv, mistakes.csv and, for small sets, "
    "probabilities.npz."
)
COLUMNS = ("images", "ap", "f1", "precision", "recall", "threshold", "given")
HEADINGS = ("images", "average precision", "F1", "precision", "recall", "threshold", "given to")


class MultiLabelReport:
    """The parts of a report, for names of classes and their data.

    are_given: whether the user gave other thresholds than those that come with the weights.
    """

    has_temperature, has_probabilities = False, True

    def __init__(
        self,
        task: MultiLabel,
        class_names: list[str],
        data: PlainImageData,
        *,
        are_given: bool = False,
    ) -> None:
        self.task, self.class_names, self.data = task, class_names, data
        has_any = task.settings.get("thresholds") is not None
        self.thresholds_from = ("given" if are_given else "fitted") if has_any else "default"

    def tables(self, rows: Rows, calibration: Calibration | str) -> dict[str, Any]:
        """The content of metrics.json, except for the subject of the report."""
        thresholds = self.task.thresholds(len(self.class_names))
        return {
            "task": self.task.name,
            "scores": multi_label_summary(rows.values, rows.labels, thresholds),
            "thresholds_from": self.thresholds_from,
            "classes": multi_label_classes(rows.values, rows.labels, thresholds, self.class_names),
        }

    def write(
        self,
        folder: Path,
        rows: Rows,
        calibration: Calibration | str,
        metrics: dict[str, Any],
        *,
        title: str,
    ) -> dict[str, Any]:
        """Write the page, the classes and the mistakes; returns the figures by name."""
        thresholds = self.task.thresholds(len(self.class_names))
        probabilities = self.task.answers(rows.values)
        wrong = most_wrong(probabilities, rows.labels, thresholds)
        with (folder / "classes.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["class", *COLUMNS])
            for name, one in metrics["classes"].items():
                writer.writerow([name, *("" if one[key] is None else one[key] for key in COLUMNS)])
        self._write_mistakes(folder / "mistakes.csv", rows, probabilities, wrong, thresholds)
        shown = self._mistakes(rows, probabilities, wrong[:SHOWN_MISTAKES])
        _write_page(folder / "index.html", metrics, shown, len(wrong), f"Test of {title}")
        drawn: dict[str, Any] = {"classes": class_bars(metrics["classes"], title=title)}
        if shown:
            words = [
                f"true {one.true}, predicted {one.predicted} ({one.probability:.2f})\n"
                f"{printable(Path(one.file).name)}".rstrip()
                for one in shown
            ]
            sheet = f"the {len(shown)} most confident of {len(wrong)} wrong labels; {title}"
            drawn["mistakes"] = picture_sheet(
                torch.stack([one.image for one in shown]), words, title=sheet
            )
        return drawn

    def _mistakes(self, rows: Rows, probabilities: Tensor, wrong: Tensor) -> list[Mistake]:
        """Wrong labels ``(m, 2)`` with the pictures of their images."""
        split, places = self.data.splits[self.data.split], rows.sample[wrong[:, 0]]
        if not len(wrong):
            return []
        found = []
        pictures, files = split.pictures(places), split.files(places)
        for (row, k), image, file in zip(wrong.tolist(), pictures, files, strict=True):
            name, of_class = self.class_names[k], float(probabilities[row, k])
            found.append(
                Mistake(image, file, name, f"not {name}", 1 - of_class)
                if rows.labels[row, k]
                else Mistake(image, file, f"not {name}", name, of_class)
            )
        return found

    def _write_mistakes(
        self, path: Path, rows: Rows, probabilities: Tensor, wrong: Tensor, thresholds: Tensor
    ) -> None:
        """Write all wrong labels: place in the split, file, class, what is wrong, probability."""
        sample = rows.sample[wrong[:, 0]]
        files = self.data.splits[self.data.split].files(sample)
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "file", "class", "mistake", "probability", "threshold"])
            for (row, k), place, name in zip(wrong.tolist(), sample.tolist(), files, strict=True):
                kind = "missed" if rows.labels[row, k] else "given wrongly"
                numbers = (f"{probabilities[row, k]:.4f}", f"{thresholds[k]:.4f}")
                writer.writerow([place, name, self.class_names[k], kind, *numbers])

    @staticmethod
    def lines(metrics: dict[str, Any]) -> list[str]:
        """Lines for the end of the command."""
        found = metrics["scores"]
        if (interval := found["map_interval"]) is None:
            is_large = found["images"] * len(metrics["classes"]) > MAX_RESAMPLED
            many = "there are too many probabilities to resample"
            text = f"none: {many if is_large else 'no image has a class'}"
        else:
            text = f"mAP from {interval[0]:.4f} to {interval[1]:.4f} (95 %, bootstrap)"
        cuts = [one["threshold"] for one in metrics["classes"].values()]
        ends = f"{min(cuts):.3f} to {max(cuts):.3f}"
        chosen = {
            "fitted": f"{ends}, fitted on the validation images",
            "given": f"{ends}, as given",
            "default": f"{cuts[0]:.3f} for every class, as the weights come with none",
        }[metrics["thresholds_from"]]
        return [labelled("interval", text), labelled("thresholds", chosen)]

    @staticmethod
    def logged(metrics: dict[str, Any]) -> dict[str, float]:
        """Scores for the loggers, which get the others from the module."""
        return {name: metrics["scores"][name] for name in ("f1_micro", "exact")}


def multi_label_summary(logits: Tensor, targets: Tensor, thresholds: Tensor) -> dict[str, Any]:
    """Numbers about all images: logits float ``(n, K)``, targets of 0 and 1 ``(n, K)``.

    images; map, over the classes with images, and f1, over those with images or given to one, with
    intervals; f1_micro of all labels together; exact, the share of images with all labels right;
    loss.
    """
    given = logits.sigmoid() > thresholds
    right, said, has = counts(given, targets)
    there = (said + has) > 0
    areas, f1 = average_precision(logits, targets), f1_scores(right, said, has)
    return {
        "images": len(logits),
        "map": float(areas.nanmean().nan_to_num()),
        "f1": float(f1[there].mean()) if bool(there.any()) else 0.0,
        **bootstrap_intervals(logits, targets, given),
        "f1_micro": float(f1_scores(right.sum(), said.sum(), has.sum())),
        "exact": float((given == (targets > 0)).all(dim=1).double().mean()),
        "loss": float(binary_cross_entropy(logits.double(), targets)),
    }


def bootstrap_intervals(
    logits: Tensor, targets: Tensor, given: Tensor
) -> dict[str, list[float] | None]:
    """95 % intervals of map and f1: percentiles over resamples of the images.

    None for a table that is too large, and for a score that no image decides.
    """
    if logits.numel() > MAX_RESAMPLED:
        return {"map_interval": None, "f1_interval": None}
    draws, count = torch.Generator().manual_seed(0), len(logits)
    areas, f1 = [], []
    for _ in range(RESAMPLES):
        rows = torch.randint(count, (count,), generator=draws)
        areas.append(float(average_precision(logits[rows], targets[rows]).nanmean()))
        right, said, has = counts(given[rows], targets[rows])
        there = (said + has) > 0
        f1.append(float(f1_scores(right, said, has)[there].mean()))
    ends = (interval_of(torch.tensor(values, dtype=torch.float64)) for values in (areas, f1))
    known = (None if math.isnan(low) else [low, high] for low, high in ends)
    return dict(zip(("map_interval", "f1_interval"), known, strict=True))


def multi_label_classes(
    logits: Tensor, targets: Tensor, thresholds: Tensor, class_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """By class name: images, ap (None without images), f1, precision, recall, threshold, given."""
    right, said, has = counts(logits.sigmoid() > thresholds, targets)
    columns = {
        "images": has,
        "ap": average_precision(logits, targets),
        "f1": f1_scores(right, said, has),
        "precision": right / said.clamp(min=1),
        "recall": right / has.clamp(min=1),
        "threshold": thresholds,
        "given": said,
    }
    table = {name: values.tolist() for name, values in columns.items()}
    table["ap"] = [value if n else None for value, n in zip(table["ap"], has.tolist(), strict=True)]
    return {
        name: {column: values[k] for column, values in table.items()}
        for k, name in enumerate(class_names)
    }


def most_wrong(probabilities: Tensor, targets: Tensor, thresholds: Tensor) -> Tensor:
    """Rows and classes of wrong labels, int64 ``(m, 2)``, those furthest from the truth first."""
    wrong = ((probabilities > thresholds) != (targets > 0)).nonzero()
    distance = (probabilities - targets).abs()[wrong[:, 0], wrong[:, 1]]
    return wrong[distance.argsort(descending=True, stable=True)]


def class_bars(classes: Mapping[str, Mapping[str, Any]], *, title: str) -> Any:
    """Average precision and F1 of each class, those with the lowest first."""
    count = min(len(classes), SHOWN_CLASSES)
    figure = new_figure(bars_height(count))
    draw_class_bars(figure, classes, count)
    which = "" if count == len(classes) else f"; {count} of {len(classes)} classes"
    set_title(figure, title + which)
    return figure


def _write_page(
    path: Path, metrics: Mapping[str, Any], shown: Sequence[Mistake], wrong: int, title: str
) -> None:
    sections = [
        Section("score", "Score", _score_part(metrics["scores"])),
        Section("classes", "Classes", "".join(_class_parts(metrics["classes"]))),
        Section("mistakes", "Mistakes", "".join(mistake_parts(shown, wrong))),
    ]
    write_page(path, title, metrics, sections, footer=FOOTER)


def _score_part(scores: Mapping[str, Any]) -> str:
    words = "mean average precision"
    if (ends := scores["map_interval"]) is not None:
        words += f"; 95 % interval from {ends[0]:.4f} to {ends[1]:.4f}"
    others = {text: f"{scores[name]:.4f}" for name, text in SCORE_NAMES.items()}
    return (
        f'<p class="big">{scores["map"]:.4f}</p><p>{words}</p>'
        f'<dl class="facts">{facts_part(others)}</dl>'
    )


def _class_parts(classes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield '<div class="wide" tabindex="0" role="region" aria-labelledby="classes-title">'
    yield '<table class="classes"><thead><tr><th scope="col">class</th>'
    yield "".join(f'<th scope="col">{text}</th>' for text in HEADINGS) + "</tr></thead><tbody>"
    for name, one in classes.items():
        texts = "".join(f"<td>{_cell_text(one[key])}</td>" for key in COLUMNS)
        yield f'<tr><th scope="row"><bdi>{escape(name)}</bdi></th>{texts}</tr>'
    yield "</tbody></table></div>"


def _cell_text(value: float | None) -> str:
    """A count, or a share with four decimals; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
