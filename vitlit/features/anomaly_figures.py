"""The picture of ``anomaly``: images beside copies that are coloured where patches are strange.

images (n, C, H, W) in [0, 1], distances (n, rows, cols) -> Figure
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitlit.plotting import (
    FONT_SMALL,
    OVERLAY_COLOUR,
    OVERLAY_OPACITY,
    WIDTH_INCHES,
    clear_frame,
    coloured,
    fit_lines_to,
    hide_axes,
    new_figure,
    set_title,
    shrink_colorbar,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 4  # images beside each other, each with its coloured copy


def heat_overlay(images: Tensor, maps: Tensor, low: float, high: float) -> Tensor:
    """Images in soft grey, coloured where a distance is over ``low``: ``(n, 3, H, W)``.

    images: ``(n, C, H, W)`` in [0, 1]; maps: ``(n, rows, cols)``; the colour is full at ``high``.
    """
    return coloured(images, ((maps - low) / (high - low)).clamp(0, 1))


def heat_map_sheet(
    images: Tensor, maps: Tensor, words: Sequence[str], *, low: float, high: float, title: str
) -> Figure:
    """Each image beside its coloured copy, all on one scale from ``low`` to ``high``.

    images: ``(n, C, H, W)`` in [0, 1], with ``words``; maps: distances ``(n, rows, cols)``.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    count, _, height, width = images.shape
    across = min(ACROSS, count)
    panel = (WIDTH_INCHES - 0.8) / ACROSS  # inches for a pair; the rest is the colour bar's
    figure = new_figure(
        ceil(count / across) * (panel / 2 * height / width + 0.2) + 0.5, panel * across + 0.8
    )
    set_title(figure, title)
    grid = figure.subplots(ceil(count / across), across, squeeze=False)
    axes = list(grid.flat)
    plain = images.mean(dim=1, keepdim=True) if images.shape[1] != 3 else images
    pairs = torch.cat(
        [plain.expand(-1, 3, -1, -1), heat_overlay(images, maps, low, high)], dim=3
    )  # (n, 3, H, 2*W)
    for one, pair, text in zip(axes, pairs, words, strict=False):
        one.imshow(pair.clamp(0, 1).permute(1, 2, 0).numpy())
        clear_frame(one, fit_lines_to(text, panel))
    hide_axes(axes[count:])
    grey = (0.5, 0.5, 0.5)
    full = tuple(g + OVERLAY_OPACITY * (c - g) for g, c in zip(grey, OVERLAY_COLOUR, strict=True))
    colours = LinearSegmentedColormap.from_list("strange", [grey, full])
    scale = ScalarMappable(Normalize(low, high), colours)
    bar = figure.colorbar(
        scale, ax=grid, label="cosine distance to normal patches", shrink=0.6, aspect=40
    )
    shrink_colorbar(bar)
    bar.ax.yaxis.label.set_fontsize(FONT_SMALL)
    return figure
