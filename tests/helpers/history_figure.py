"""The curves of a training alone on a figure."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from vitlit.plotting import new_figure
from vitlit.training.history import HISTORY_INCHES, draw_history


def history_figure(
    history: Mapping[str, Sequence[tuple[float, float]]], best: float | None = None
) -> Figure:
    """As large as history.png; arguments of ``draw_history``."""
    figure = new_figure(HISTORY_INCHES)
    draw_history(figure, history, best)
    return figure
