"""The parts of a report on numbers: scores with intervals, files, page, figures.

outputs (n, 1), targets (n, 1) -> metrics.json predictions.csv index.html
                                  scatter.png residuals.png worst.png
"""

import csv
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.data.datamodule import PlainImageData
from vitlit.evaluation.calibration import Calibration
from vitlit.evaluation.figures import picture_sheet
from vitlit.evaluation.inference import Rows
from vitlit.evaluation.report_page import (
    PLOT,
    Section,
    picture_part,
    plot_parts,
    write_page,
)
from vitlit.files import printable
from vitlit.html_page import facts_part
from vitlit.messages import labelled
from vitlit.plotting import (
    BLUE,
    FONT_SMALL,
    GREY,
    VERMILION,
    new_figure,
    round_ticks,
    set_title,
    tidy_axes,
)
from vitlit.tasks.regression import Regression
from vitlit.tasks.regression_scores import RESAMPLES, error_intervals, error_scores

SHOWN_WORST = 24  # pictures on the page and on the sheet: four rows of six
MAX_POINTS = 2000  # of the scatter on the page; of more images, evenly spread ones
RESIDUAL_BINS, MIN_BINS = 40, 10  # the most, and the fewest, of few images
EDGE = 56  # room for the labels of the plot, in units of its SVG
FOOTER = (
    "MAE is the mean absolute error, RMSE the root of the mean squared error, both in the unit of "
    "<bdi>{name}</bdi>. R2 is the share of the variance that the predictions explain: 1 is "
    "perfect, 0 no better than always giving the mean. The intervals are of 95 %, from "
    f"{RESAMPLES:,} resamples of the images. The files beside this page hold all numbers: "
    "metrics.json and predictions.csv."
)
SCORE_NAMES = {"rmse": "RMSE", "r2": "R2", "target_mean": "mean of the true values"}


class Worst(NamedTuple):
    """An image with a large error: float ``(C, H, W)`` in [0, 1], its file or "", both numbers."""

    image: Tensor
    file: str
    true: float
    predicted: float

    def words(self) -> tuple[str, str]:
        """Both numbers, and the error with its sign."""
        error = self.predicted - self.true
        return f"true {self.true:.6g}", f"predicted {self.predicted:.6g} ({error:+.4g})"


class RegressionReport:
    """The parts of a report, for the name of the column and its data."""

    has_temperature = has_probabilities = False

    def __init__(self, task: Regression, class_names: list[str], data: PlainImageData) -> None:
        self.task, self.name, self.data = task, class_names[0], data

    def tables(self, rows: Rows, calibration: Calibration | str) -> dict[str, Any]:
        """The content of metrics.json, except for the subject of the report."""
        answers, wanted = self.task.answers(rows.values)[:, 0], rows.labels[:, 0]
        scores = error_scores(answers, wanted)
        ends = error_intervals(answers, wanted)
        values = wanted.double()
        return {
            "task": self.task.name,
            "target": self.name,
            "scores": {
                "images": len(wanted),
                **scores,
                **{f"{name}_interval": interval for name, interval in ends.items()},
                "loss": self._loss(rows),
                "target_mean": float(values.mean()),
                "target_std": float(values.std(correction=0)),
                "target_range": [float(values.min()), float(values.max())],
            },
        }

    def _loss(self, rows: Rows) -> float | None:
        """None for exported weights, which do not hold what the training divided by."""
        if not self.task.has_loss:
            return None
        return float(self.task.loss(rows.values.double(), rows.labels.double()))

    def write(
        self,
        folder: Path,
        rows: Rows,
        calibration: Calibration | str,
        metrics: dict[str, Any],
        *,
        title: str,
    ) -> dict[str, Any]:
        """Write the page and all predictions; returns the figures by name."""
        answers, wanted = self.task.answers(rows.values)[:, 0], rows.labels[:, 0]
        order = (answers - wanted).abs().argsort(descending=True, stable=True)
        self._write_predictions(folder / "predictions.csv", rows, answers, order)
        shown = self._worst(rows, answers, order[:SHOWN_WORST])
        self._write_page(folder / "index.html", metrics, shown, answers, wanted, title)
        return {
            "scatter": scatter_figure(answers, wanted, self.name, title=title),
            "residuals": residual_figure(answers, wanted, self.name, title=title),
            "worst": picture_sheet(
                torch.stack([one.image for one in shown]),
                ["\n".join([*one.words(), printable(Path(one.file).name)]) for one in shown],
                title=f"the {len(shown)} largest errors; {title}",
            ),
        }

    def _write_predictions(self, path: Path, rows: Rows, answers: Tensor, order: Tensor) -> None:
        """Write all images, the largest error first: place, file, both numbers, the error."""
        sample = rows.sample[order]
        files = self.data.splits[self.data.split].files(sample)
        columns = (sample, rows.labels[order, 0], answers[order])
        # surrogateescape: names that are not UTF-8 are written as they are on disk
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "file", self.name, "predicted", "error"])
            for name, place, true, said in zip(files, *(c.tolist() for c in columns), strict=True):
                numbers = (f"{value:.7g}" for value in (true, said, said - true))
                writer.writerow([place, name, *numbers])

    def _worst(self, rows: Rows, answers: Tensor, worst: Tensor) -> list[Worst]:
        """The images at these rows ``(m,)``, with their pictures."""
        split, places = self.data.splits[self.data.split], rows.sample[worst]
        parts = (rows.labels[worst, 0].tolist(), answers[worst].tolist())
        return [
            Worst(*one)
            for one in zip(split.pictures(places), split.files(places), *parts, strict=True)
        ]

    def _write_page(
        self,
        path: Path,
        metrics: Mapping[str, Any],
        shown: list[Worst],
        answers: Tensor,
        wanted: Tensor,
        title: str,
    ) -> None:
        scores = metrics["scores"]
        scatter = scatter_parts(answers, wanted, self.name)
        sections = [
            Section("score", "Score", _score_part(scores)),
            Section("scatter", "Predicted and true", "".join(scatter)),
            Section("worst", "Largest errors", "".join(_worst_parts(shown, scores["images"]))),
        ]
        footer = FOOTER.format(name=escape(self.name))
        facts = {"target": self.name}
        write_page(path, f"Test of {title}", metrics, sections, footer=footer, facts=facts)

    @staticmethod
    def lines(metrics: dict[str, Any]) -> list[str]:
        """Lines for the end of the command."""
        found = metrics["scores"]
        (low, high), (least, most) = found["mae_interval"], found["r2_interval"]
        text = f"MAE from {low:.4f} to {high:.4f}, R2 from {least:.4f} to {most:.4f}"
        ends = " to ".join(f"{value:.6g}" for value in found["target_range"])
        lines = [
            labelled("interval", f"{text} (95 %, bootstrap)"),
            labelled("target", f"{printable(metrics['target'])}, {ends} in these images"),
        ]
        if found["loss"] is None:
            lines.append(labelled("loss", "not known: exported weights do not hold its unit"))
        return lines

    @staticmethod
    def logged(metrics: dict[str, Any]) -> dict[str, float]:
        """Scores for the loggers, which get them all from the module."""
        return {}


def scatter_figure(answers: Tensor, wanted: Tensor, name: str, *, title: str) -> Any:
    """Predicted against true numbers, both ``(n,)``; on the dashed line they are equal."""
    figure = new_figure(5.2)
    draw_scatter(figure.subplots(), answers, wanted, name)
    set_title(figure, title)
    return figure


def draw_scatter(axes: Any, answers: Tensor, wanted: Tensor, name: str) -> None:
    """Draw predicted against true numbers of a column, both ``(n,)``."""
    low, high = _ends(answers, wanted)
    axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1)
    axes.scatter(wanted.numpy(), answers.numpy(), s=9, color=BLUE, alpha=0.5, linewidths=0)
    ticks = round_ticks(low, high)
    axes.set(xlim=(low, high), ylim=(low, high), xticks=ticks, yticks=ticks, aspect="equal")
    # parse_math: a column's name may hold a $, which would start a formula
    axes.set_xlabel(f"true {printable(name)}", parse_math=False)
    axes.set_ylabel(f"predicted {printable(name)}", parse_math=False)
    tidy_axes(axes, whole=False)


def residual_figure(answers: Tensor, wanted: Tensor, name: str, *, title: str) -> Any:
    """Errors, predicted minus true: by the true number, and how often each occurs."""
    errors = answers - wanted
    figure = new_figure(3.4)
    left, right = figure.subplots(1, 2)
    left.axhline(0, color=GREY, linestyle="--", linewidth=1)
    left.scatter(wanted.numpy(), errors.numpy(), s=9, color=BLUE, alpha=0.5, linewidths=0)
    left.set_xlabel(f"true {printable(name)}", parse_math=False)
    left.set_ylabel("predicted minus true")
    tidy_axes(left, whole=False)
    draw_errors(right, errors)
    set_title(figure, title)
    return figure


def draw_errors(axes: Any, errors: Tensor) -> None:
    """Draw how often errors ``(n,)``, predicted minus true, occur."""
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    axes.axvline(float(errors.mean()), color=VERMILION, linewidth=1, label="mean")
    axes.hist(
        errors.double().numpy(),  # NumPy finds no bins between neighbours of float32
        bins=min(RESIDUAL_BINS, max(MIN_BINS, len(errors) // 8)),
        color=BLUE,
        alpha=0.7,
    )
    axes.set_xlabel("predicted minus true")
    axes.set_ylabel("images")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=FONT_SMALL)
    tidy_axes(axes, whole=False)


def scatter_parts(answers: Tensor, wanted: Tensor, name: str) -> Iterator[str]:
    """Predicted (upward) by true numbers, as a picture in SVG."""
    low, high = _ends(answers, wanted)
    places = torch.linspace(0, len(wanted) - 1, min(len(wanted), MAX_POINTS)).round().long()
    ticks = {(one - low) / (high - low): f"{one:.6g}" for one in round_ticks(low, high)}
    yield from plot_parts("Predicted by true values", "true", ticks, edge=EDGE)
    scale = PLOT / (high - low)
    for true, said in zip(wanted[places].tolist(), answers[places].tolist(), strict=True):
        x, y = EDGE + scale * (true - low), 8 + PLOT - scale * (said - low)
        yield f'<circle class="before" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>'
    yield "</svg>"
    which = "" if len(places) == len(wanted) else f" {len(places):,} of the images are shown."
    yield (
        f'<p class="aside">Predicted <bdi>{escape(name)}</bdi> (upward) by the true one; on the '
        f"dashed line both are equal.{which}</p>"
    )


def _ends(answers: Tensor, wanted: Tensor) -> tuple[float, float]:
    """A range that holds both, and a little more."""
    both = torch.cat([answers, wanted]).double()
    low, high = float(both.min()), float(both.max())
    room = 0.03 * (high - low) or max(1.0, 0.03 * abs(high))
    return low - room, high + room


def _score_part(scores: Mapping[str, Any]) -> str:
    (low, high), (least, most) = scores["mae_interval"], scores["r2_interval"]
    others = {text: f"{scores[name]:.6g}" for name, text in SCORE_NAMES.items()}
    return (
        f'<p class="big">{scores["mae"]:.4g}</p>'
        f"<p>MAE; 95 % interval from {low:.4g} to {high:.4g}. Interval of R2: from {least:.4f} to "
        f'{most:.4f}.</p><dl class="facts">{facts_part(others)}</dl>'
    )


def _worst_parts(shown: list[Worst], images: int) -> Iterator[str]:
    yield f"<p>The {len(shown)} largest errors of {images:,} images.</p>"
    yield '<ul class="mistakes">'
    for one in shown:
        true, said = one.words()
        yield picture_part(one.image, f"{true}, <em>{said}</em>", one.file)
    yield "</ul>"
