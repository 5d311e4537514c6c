"""The parts of a test report: tables, figures, a list of mistakes, a summary in words.

logits (n, K), labels (n,), temperature -> content of metrics.json, figures by name, rows of a CSV
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitlit.data.datamodule import PlainImageData
from vitlit.evaluation import figures
from vitlit.evaluation.calibration import (
    CONFIDENCE_BINS,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    Calibration,
    Reliability,
    calibration_error,
    curve_of,
    fit_temperature,
    mean_loss,
    reliability,
    selective_table,
    selective_words,
)
from vitlit.evaluation.inference import Rows
from vitlit.evaluation.report_page import Mistake, PageContent, write_report_page
from vitlit.evaluation.scores import (
    class_table,
    confusion_counts,
    most_confident_mistakes,
    summary_scores,
)
from vitlit.files import printable
from vitlit.messages import labelled
from vitlit.tasks.task import Task

SHOWN_MISTAKES = 24  # pictures on the sheet of mistakes: four rows of six


class SingleLabelReport:
    """The parts of a report on one class for each image, for names of classes and their data."""

    has_temperature = has_probabilities = True

    def __init__(self, task: Task, class_names: list[str], data: PlainImageData) -> None:
        self.class_names, self.data = class_names, data

    def tables(self, rows: Rows, calibration: Calibration | str) -> dict[str, Any]:
        """The content of metrics.json, except for the subject of the report."""
        return report_tables(rows, self.class_names, calibration)

    def write(
        self,
        folder: Path,
        rows: Rows,
        calibration: Calibration | str,
        metrics: dict[str, Any],
        *,
        title: str,
    ) -> dict[str, Any]:
        """Write the page and the mistakes; returns the figures by name."""
        about = (rows, self.class_names, calibration, self.data)
        write_page(folder / "index.html", *about, metrics, title=f"Test of {title}")
        write_mistakes(folder / "mistakes.csv", rows, self.class_names, self.data)
        return draw_report(*about, title=title)

    @staticmethod
    def lines(metrics: dict[str, Any]) -> list[str]:
        """Lines for the end of the command."""
        found = metrics["scores"]
        low, high = found["acc_interval"]
        return [
            labelled("interval", f"accuracy from {low:.4f} to {high:.4f} (95 %, Wilson)"),
            labelled("calibrated", calibration_words(found, metrics["temperature"])),
            labelled("abstaining", selective_words(metrics["selective"])),
        ]

    @staticmethod
    def logged(metrics: dict[str, Any]) -> dict[str, float]:
        """Scores for the loggers, which get the others from the module."""
        return {name: metrics["scores"][name] for name in ("f1", "ece")}


def fit_calibration(logits: Tensor, labels: Tensor) -> Calibration | str:
    """The temperature, or in words why there is none."""
    # if all answers are right, the loss falls as long as the temperature does: no best one exists
    if bool((logits.argmax(dim=1) == labels).all()):
        return f"none can be fitted, since all {len(labels)} validation images are right"
    return fit_temperature(logits, labels)


def report_tables(
    rows: Rows, class_names: list[str], calibration: Calibration | str
) -> dict[str, Any]:
    """The content of metrics.json, except for the subject of the report."""
    logits, labels, _ = rows
    found = {"scores": summary_scores(logits, labels) | {"ece_bins": CONFIDENCE_BINS}}
    temperature: dict[str, Any]
    if isinstance(calibration, str):
        temperature = {"skipped": calibration}
    else:
        cooled = logits / calibration.temperature
        # val_loss: on the images of the fit; loss and ece: on the images that are scored
        temperature = {
            "value": calibration.temperature,
            "at_limit": calibration.is_at_limit,
            "images": calibration.images,
            "val_loss_before": calibration.loss_before,
            "val_loss_after": calibration.loss_after,
            "loss": mean_loss(cooled, labels),
            "ece": calibration_error(cooled, labels),
        }
    classes = class_table(logits, labels, class_names)
    selective = selective_table(logits, labels)
    return found | {"temperature": temperature, "selective": selective, "classes": classes}


def calibration_words(found: dict[str, Any], fitted: dict[str, Any]) -> str:
    """In words, how the temperature changes the calibration error.

    found, fitted: the entries scores and temperature of metrics.json.
    """
    error = f"calibration error {found['ece']:.4f}"
    if "skipped" in fitted:
        return f"{error}; no temperature: {fitted['skipped']}"
    fit = f"temperature {fitted['value']:.3f}, fitted on {fitted['images']} validation images"
    if fitted["at_limit"]:
        return (
            f"{error}; no temperature: the best one for {fitted['images']} validation images is "
            f"outside {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}, which happens with too few images"
        )
    if fitted["ece"] >= found["ece"]:
        return f"{error}; {fit}, does not lower it here: {fitted['ece']:.4f}"
    return f"{error} without, {fitted['ece']:.4f} with {fit}"


def draw_report(
    rows: Rows,
    class_names: list[str],
    calibration: Calibration | str,
    data: PlainImageData,
    *,
    title: str,
) -> dict[str, Any]:
    """Figures by name; without mistakes there is no sheet of mistakes."""
    confusion = confusion_counts(rows.values, rows.labels)
    fitted = _usable(calibration)
    before, after = [*_curves(rows, fitted), None][:2]
    assert before is not None
    found: dict[str, Any] = {
        "confusion": figures.confusion_matrix(confusion, class_names, title=title),
        "reliability": figures.reliability_diagram(before, after, fitted, title=title),
        "risk_coverage": figures.risk_coverage(curve_of(rows.values, rows.labels), title=title),
    }
    mistakes, count = shown_mistakes(rows, class_names, data)
    if mistakes:
        words = [
            f"true {one.true}, predicted {one.predicted} ({one.probability:.2f})\n"
            f"{printable(Path(one.file).name)}".rstrip()
            for one in mistakes
        ]
        which = "all" if len(mistakes) == count else f"the {len(mistakes)} most confident of"
        found["mistakes"] = figures.picture_sheet(
            torch.stack([one.image for one in mistakes]),
            words,
            title=f"{which} {count} mistakes; {title}",
        )
    return found


def shown_mistakes(
    rows: Rows, class_names: list[str], data: PlainImageData
) -> tuple[list[Mistake], int]:
    """The most confident mistakes, with their pictures, and how many there are in all."""
    logits, labels, sample = rows
    every = most_confident_mistakes(logits, labels, len(labels))
    wrong = every[:SHOWN_MISTAKES]
    if not len(wrong):
        return [], 0
    sure, taken = logits[wrong].softmax(dim=1).max(dim=1)
    split = data.splits[data.split]
    found = [
        Mistake(image, file, class_names[label], class_names[other], share)
        for image, file, label, other, share in zip(
            split.pictures(sample[wrong]),
            split.files(sample[wrong]),
            labels[wrong].tolist(),
            taken.tolist(),
            sure.tolist(),
            strict=True,
        )
    ]
    return found, len(every)


def write_page(
    path: Path,
    rows: Rows,
    class_names: list[str],
    calibration: Calibration | str,
    data: PlainImageData,
    metrics: dict[str, Any],
    *,
    title: str,
) -> None:
    """Write the page of the report. metrics: the content of metrics.json."""
    confusion = confusion_counts(rows.values, rows.labels)
    mistakes, count = shown_mistakes(rows, class_names, data)
    content = PageContent(
        title=title,
        metrics=metrics,
        class_names=class_names,
        confusion=confusion,
        kept=figures.most_confused(confusion),
        mistakes=mistakes,
        mistake_count=count,
        calibration=calibration_words(metrics["scores"], metrics["temperature"]),
        curves=_curves(rows, _usable(calibration)),
    )
    write_report_page(path, content)


def _usable(calibration: Calibration | str) -> Calibration | None:
    """The calibration, unless there is none, or the best temperature was out of reach."""
    if isinstance(calibration, str) or calibration.is_at_limit:
        return None
    return calibration


def _curves(rows: Rows, calibration: Calibration | None) -> list[Reliability]:
    """Reliability of the model as it is and, if there is one, with the temperature."""
    scales = [1.0] if calibration is None else [1.0, calibration.temperature]
    return [reliability(rows.values / scale, rows.labels) for scale in scales]


def write_mistakes(path: Path, rows: Rows, class_names: list[str], data: PlainImageData) -> None:
    """Write all mistakes, the most confident first: place in the split, file, classes, probability.

    Images that come from no file have an empty name.
    """
    wrong = most_confident_mistakes(rows.values, rows.labels, len(rows.labels))
    sure, taken = rows.values[wrong].softmax(dim=1).max(dim=1)
    sample = rows.sample[wrong]
    # surrogateescape: names that are not UTF-8 are written as they are on disk
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "file", "class", "predicted", "probability"])
        writer.writerows(
            [place, name, class_names[label], class_names[other], f"{share:.4f}"]
            for place, name, label, other, share in zip(
                sample.tolist(),
                data.splits[data.split].files(sample),
                rows.labels[wrong].tolist(),
                taken.tolist(),
                sure.tolist(),
                strict=True,
            )
        )


def write_probabilities(
    path: Path, rows: Rows, class_names: list[str], files: list[str], task: Task
) -> None:
    """Write all probabilities, in the order of the split; files: "" for images without a file."""
    probabilities = task.answers(rows.values).numpy()
    names = {"class_names": np.array(class_names), "files": np.array(files)}
    labels = rows.labels.numpy()
    # allow_pickle=False: whoever reads the file need not trust it
    np.savez(path, allow_pickle=False, probabilities=probabilities, labels=labels, **names)
