"""The figure of a training: what was logged, by epoch.

pairs of epoch and value, by name -> Figure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vitlit.explain.figures import BLUE, FONT_SMALL, FONT_TINY, VERMILION, new_figure, tidy_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# titles of the panels -> the names that training logs, by the name of the line
HISTORY_PANELS = {
    "loss": {"train": "train/loss_epoch", "val": "val/loss"},
    "top-1 accuracy": {"train": "train/acc", "val": "val/acc"},
    "learning rate": {"": "lr"},
}


def training_history(history: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Loss, top-1 accuracy and learning rate by epoch, of training and validation.

    history: by the names that training logs (``train/loss_epoch val/loss train/acc val/acc lr``),
    pairs of epoch and value. What is missing is left out.
    """
    panels = {
        title: {line: name for line, name in lines.items() if history.get(name)}
        for title, lines in HISTORY_PANELS.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    shown = {
        epoch for lines in panels.values() for name in lines.values() for epoch, _ in history[name]
    }
    figure = new_figure(2.8)
    for i, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), i)
        for line, name in lines.items():
            _draw_panel(axes, history[name], line)
        axes.set_title(title, fontsize=FONT_SMALL)
        axes.set_xlabel("epoch")
        if len(lines) > 1:
            axes.legend(fontsize=FONT_TINY, frameon=False)
        tidy_axes(axes)
        if len(shown) == 1:  # matplotlib would divide the one epoch, and label its parts
            axes.set(xlim=(min(shown) - 1, min(shown) + 1), xticks=[min(shown)])
        if "lr" in lines.values():
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:g}")
    return figure


def _draw_panel(axes: Axes, points: Sequence[tuple[float, float]], line: str) -> None:
    epochs, values = zip(*sorted(points), strict=True)
    axes.plot(
        epochs,
        values,
        color=VERMILION if line == "val" else BLUE,
        marker="." if len(epochs) < 30 else "",
        linewidth=1.2,
        label=line,
    )
