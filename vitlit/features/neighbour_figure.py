"""Pictures of images beside their neighbours: tensors and words in, a matplotlib Figure out.

queries (q, C, H, W), neighbours (q, k, C, H, W) in [0, 1] -> Figure
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from vitlit.plotting import (
    BLUE,
    FONT_TINY,
    GREY,
    VERMILION,
    WIDTH_INCHES,
    draw_image,
    fit_lines_to,
    hide_axes,
    new_figure,
    set_title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def neighbour_sheet(
    queries: Tensor,
    names: Sequence[str],
    neighbours: Tensor,
    words: Sequence[Sequence[str]],
    alike: Sequence[Sequence[bool]] | None,
    *,
    title: str,
    legend: str = "",
) -> Figure:
    """Each query with its neighbours to its right.

    queries: ``(q, C, H, W)`` in [0, 1], with ``names``; neighbours: ``(q, k, C, H, W)``, with
    ``words``, of which a row may be shorter than k: the pictures after it are not shown; alike:
    which neighbours have the query's class, for the colour of their frames, None if classes are not
    known; legend: what the colours say.
    """
    count, near, _, height, width = neighbours.shape
    panel = WIDTH_INCHES / (near + 1.2)
    figure = new_figure(count * (panel * height / width + 0.17) + 0.4)
    set_title(figure, title)
    ratios = [1.0, 0.2, *[1.0] * near]  # a narrow empty column sets the query apart
    grid = figure.subplots(count, near + 2, squeeze=False, width_ratios=ratios)
    for i, (first, gap, *others) in enumerate(grid):
        draw_image(first, queries[i], fit_lines_to(names[i], panel))
        hide_axes([gap])
        shown = len(words[i])
        hide_axes(others[shown:])
        for j, axes in enumerate(others[:shown]):
            draw_image(axes, neighbours[i, j], fit_lines_to(words[i][j], panel))
            if alike is not None:
                colour = BLUE if alike[i][j] else VERMILION
                axes.spines[:].set(visible=True, color=colour, linewidth=2)
    if alike is not None:
        figure.supxlabel(legend, fontsize=FONT_TINY, color=GREY)
    return figure
