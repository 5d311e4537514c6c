"""Figures of scores and of images with words: tensors in, matplotlib Figures out.

confused pairs (p,), bins of reliability (15,), images (n, C, H, W) in [0, 1] -> Figure

Built without pyplot: ``figure.savefig("name.png")`` writes one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from vitlit.evaluation.calibration import Calibration, Reliability, RiskCoverage
from vitlit.evaluation.scores import Confusion
from vitlit.files import printable
from vitlit.messages import shorten
from vitlit.plotting import (
    BLUE,
    COLORMAP,
    FONT_SMALL,
    FONT_TINY,
    GREY,
    VERMILION,
    WIDTH_INCHES,
    draw_image,
    fit_lines_to,
    hide_axes,
    new_figure,
    set_title,
    shrink_colorbar,
    tidy_axes,
    wrap_lines_to,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


MAX_CLASSES = 30  # in a confusion matrix; the names of more are too small to read
NAME_LETTERS = 40  # of a class, beside the matrix
SHARE_EXPONENT, EMPTY_CELL = 1 / 3, "#F4F5F7"  # of the scale: a share of 0.001 is a tenth of it
MATRIX_HEIGHT = 0.86  # of its width, which has the colour bar too
SHEET_COLUMNS = 6  # pictures in a row of a sheet
CURVES_INCHES = 2.4  # height of the curves in the summary of a training


def most_confused(confusion: Confusion) -> Tensor:
    """The classes to show in a confusion matrix: all, or the 30 with the most mistakes."""
    # a mistake counts for both of its classes: for the true one and for the predicted one
    wrong = confusion.of_predicted + confusion.of_true - 2 * confusion.right
    # stable, and sorted again: the same classes in every run, in their usual order
    return wrong.argsort(descending=True, stable=True)[:MAX_CLASSES].sort().values


def confusion_matrix(confusion: Confusion, class_names: Sequence[str], *, title: str) -> Figure:
    """Counts by true class (row) and predicted class (column), coloured by the share of the row.

    Of more than 30 classes it shows the 30 with the most mistakes. A cell without images is empty
    and small shares are spread out, so that a single mistake is seen.
    """
    width, height = matrix_size(confusion, class_names)
    figure = new_figure(height, width)
    draw_matrix(figure, confusion, class_names)
    accuracy, note = matrix_title(confusion)
    set_title(figure, f"{accuracy}; {title}{note}")
    return figure


def matrix_title(confusion: Confusion) -> tuple[str, str]:
    """The accuracy, and which of the classes are shown if not all are: empty, or after a ``;``."""
    right = float(confusion.right.sum() / confusion.counts.sum().clamp(min=1))
    note = f"; {MAX_CLASSES} of {confusion.classes} classes, those with the most mistakes"
    return f"accuracy {right:.4f}", note if confusion.classes > MAX_CLASSES else ""


def matrix_size(confusion: Confusion, class_names: Sequence[str]) -> tuple[float, float]:
    """Width and height of a confusion matrix in inches."""
    kept = most_confused(confusion).tolist()
    letters = max(16, *(len(shorten(class_names[i], NAME_LETTERS)) for i in kept))
    # room for the scale and for names, then 0.42 for each class
    side = min(WIDTH_INCHES, 1.7 + 0.055 * letters + 0.42 * len(kept))
    return side, MATRIX_HEIGHT * side


def draw_matrix(
    figure: Figure | SubFigure, confusion: Confusion, class_names: Sequence[str]
) -> None:
    """Draw a confusion matrix on an empty figure, or a part of one."""
    from matplotlib.colors import PowerNorm

    kept = most_confused(confusion)
    counts = confusion.among(kept)
    share = counts / confusion.of_true[kept, None].clamp(min=1)  # of all images, not those kept
    count = len(kept)
    names = [shorten(class_names[i], NAME_LETTERS) for i in kept.tolist()]
    axes = figure.subplots()
    norm = PowerNorm(SHARE_EXPONENT, vmin=0, vmax=1)
    filled = share.masked_fill(counts == 0, float("nan"))  # which is not drawn
    drawn = axes.imshow(filled.numpy(), cmap=COLORMAP, norm=norm)
    axes.set_facecolor(EMPTY_CELL)
    turn = 90 if max(map(len, names)) > 3 else 0  # longer names would overlap
    # parse_math=False: a class name with two dollar signs is no formula
    axes.set_xticks(range(count), names, rotation=turn, fontsize=FONT_TINY, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=FONT_TINY, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class", fontsize=FONT_SMALL)
    axes.set_ylabel("true class", fontsize=FONT_SMALL)
    axes.spines[:].set_visible(False)
    _write_counts(axes, counts, share)
    bar = figure.colorbar(drawn, ax=axes, label="share of the true class", shrink=0.8)
    bar.set_ticks([0, 0.01, 0.1, 0.3, 0.6, 1], labels=["0", "1 %", "10 %", "30 %", "60 %", "100 %"])
    shrink_colorbar(bar)


def _write_counts(axes: Axes, counts: Tensor, share: Tensor) -> None:
    size = FONT_TINY if len(counts) <= 15 else 5  # points
    for row, col in counts.nonzero().tolist():
        axes.text(
            col,
            row,
            str(int(counts[row, col])),
            ha="center",
            va="center",
            fontsize=size,
            color="black"
            if share[row, col] ** SHARE_EXPONENT > 0.6
            else "white",  # bright from there
        )


def reliability_diagram(
    before: Reliability, after: Reliability | None, calibration: Calibration | None, *, title: str
) -> Figure:
    """Accuracy by confidence (Guo et al., 2017, fig. 1), above a histogram of the confidences.

    The area of a dot grows with the number of images in its bin. before: of the model's own
    confidences; after, calibration: with the temperature, None if there is none.
    """
    figure = new_figure(5.2, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="confidence is right")
    lines = [(before, BLUE, "without temperature")]
    if after is not None and calibration is not None:
        lines.append((after, VERMILION, f"at temperature {calibration.temperature:.2f}"))
    for i, (bins, colour, label) in enumerate(lines):
        has = bins.images > 0  # an empty bin has accuracy 0, which is no measurement
        sure, right = bins.confidence[has].numpy(), bins.accuracy[has].numpy()
        sizes = (12 + 60 * bins.images[has] / bins.images.max()).numpy()
        top.scatter(sure, right, s=sizes, color=colour, linewidths=0, alpha=0.8, label=label)
        edges = torch.arange(len(bins.images) + 1) / len(bins.images)
        share = bins.images / bins.images.sum()
        bottom.stairs(share.numpy(), edges.numpy(), color=colour, fill=i == 0, linewidth=1.4)
    top.set_ylabel("accuracy")
    top.set_ylim(-0.02, 1.02)
    top.legend(fontsize=FONT_TINY, frameon=False, loc="upper left")
    bottom.set_ylabel("share of images")
    bottom.set_xlabel("confidence")
    for axes in (top, bottom):
        tidy_axes(axes)
    bottom.set_xlim(0, 1)
    bottom.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    set_title(figure, title)
    return figure


def risk_coverage(curve: RiskCoverage, *, title: str) -> Figure:
    """Accuracy by the share of images that get a class, above the threshold that leaves it."""
    figure = new_figure(5.2, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    coverage = curve.coverage.numpy()
    top.plot(coverage, curve.accuracy.numpy(), color=BLUE, linewidth=1.4)
    top.axhline(float(curve.accuracy[-1]), color=GREY, linestyle="--", linewidth=1)
    top.set_ylabel("accuracy on these")
    bottom.plot(coverage, curve.threshold.numpy(), color=VERMILION, linewidth=1.4)
    bottom.set_ylabel("least probability")
    bottom.set_xlabel("share of images that get a class")
    for axes in (top, bottom):
        tidy_axes(axes)
    bottom.set_xlim(0, 1)
    bottom.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    bottom.set_ylim(0, 1.02)
    set_title(figure, title)
    return figure


def picture_sheet(images: Tensor, words: Sequence[str], *, title: str) -> Figure:
    """Pictures ``(n, C, H, W)`` in [0, 1] in rows of six, each under its words; n is at least 1."""
    count, _, height, width = images.shape
    across = min(SHEET_COLUMNS, max(count, 3))  # 3: a single picture need not fill the page
    down = ceil(count / across)
    panel = WIDTH_INCHES / across
    words = [wrap_lines_to(text, panel) for text in words]
    lines = max(text.count("\n") for text in words) + 1
    figure = new_figure(down * (panel * height / width + 0.15 * lines) + 0.4)
    set_title(figure, title)
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, image, text in zip(grid, images, words, strict=False):
        draw_image(axes, image, text)
    hide_axes(grid[count:])
    return figure


def bars_height(classes: int) -> float:
    """Height in inches of the bars of so many classes."""
    return 0.9 + 0.3 * classes


def draw_class_bars(
    figure: Figure | SubFigure, classes: Mapping[str, Mapping[str, Any]], most: int
) -> None:
    """Average precision and F1, of at most so many classes: those with the lowest precision.

    classes: by name, with ``ap``, None without images, and ``f1``. figure: empty, whole or a part.
    """
    ranked = sorted(classes.items(), key=lambda row: (row[1]["ap"] is None, row[1]["ap"] or 0.0))
    shown, axes = ranked[:most], figure.subplots()
    for label, key, shift, colour in (
        ("average precision", "ap", -0.2, BLUE),
        ("F1", "f1", 0.2, VERMILION),
    ):
        values = [one[key] or 0.0 for _, one in shown]
        places = [row + shift for row in range(len(shown))]
        axes.barh(places, values, height=0.38, color=colour, label=label)
    names = [shorten(printable(name), NAME_LETTERS) for name, _ in shown]
    # parse_math=False: a class name with two dollar signs is no formula
    axes.set_yticks(range(len(shown)), names, fontsize=FONT_TINY, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    # above the axes: the bars may be long anywhere
    axes.legend(
        fontsize=FONT_TINY, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1)
    )
    tidy_axes(axes, whole=False)


class Outcome(NamedTuple):
    """What a training came to on its validation images.

    scores: in words; note: what to add to them; draw: draws what was right and wrong on a part of
    the figure, of a size in inches (width, height); shown: rows of the images to show, with words
    below each, and whether it is framed as right; legend: what the frames mean.
    """

    scores: str
    note: str
    draw: Callable[[SubFigure], None]
    size: tuple[float, float]
    shown: Sequence[int]
    words: Sequence[str]
    is_right: Sequence[bool]
    legend: str = "blue: right, orange: wrong"


def summary_figure(
    outcome: Outcome, pictures: Tensor, title: str, draw_curves: Callable[[SubFigure], None]
) -> Figure:
    """Curves by epoch, what was right and wrong, and some images with what was predicted.

    pictures: ``(n, C, H, W)`` in [0, 1], of the rows shown; draw_curves: draws the curves on a part
    of the figure.
    """
    count, _, height, width = pictures.shape
    panel = WIDTH_INCHES / SHEET_COLUMNS
    down = ceil(count / SHEET_COLUMNS)
    wide, tall = outcome.size
    heights = (CURVES_INCHES, tall, down * (panel * height / width + 0.5))
    figure = new_figure(sum(heights) + 0.4)
    set_title(figure, title)
    parts: Any = figure.subfigures(3, 1, height_ratios=heights)
    curves, middle, sheet = parts
    draw_curves(curves)
    if wide < WIDTH_INCHES:
        margin = max(0.05, (WIDTH_INCHES - wide) / 2)
        middle = middle.subfigures(1, 3, width_ratios=(margin, wide, margin))[1]
    outcome.draw(middle)
    grid = list(sheet.subplots(down, SHEET_COLUMNS, squeeze=False).flat)
    shown = zip(grid, pictures, outcome.words, outcome.is_right, strict=False)
    for axes, image, text, right in shown:
        draw_image(axes, image, fit_lines_to(text, panel))
        axes.spines[:].set(visible=True, color=BLUE if right else VERMILION, linewidth=2)
    hide_axes(grid[count:])
    sheet.supxlabel(outcome.legend, fontsize=FONT_TINY, color=GREY)
    return figure
