"""Sheets: many small pictures on one, with words beside them.

images (n, C, H, W) in [0, 1], words -> figure
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitlit.plotting import (
    FONT_TINY,
    GREY,
    WIDTH_INCHES,
    cut_text,
    new_figure,
    set_title,
    wrap_lines_to,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.04  # between pictures, as a share of their width
NAME_INCHES = 1.3  # for the names of the rows


def mosaic(images: Tensor, across: int) -> Tensor:
    """Pictures in rows of ``across``, with white between them: ``(3, height, width)``."""
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    count, channels, height, width = images.shape
    down, gap = -(-count // across), max(1, round(GAP * width))
    canvas = torch.ones(channels, down * (height + gap) - gap, across * (width + gap) - gap)
    for place, image in enumerate(images):
        top, left = place // across * (height + gap), place % across * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


def class_sheet(rows: Sequence[Tensor], names: Sequence[str], *, title: str) -> Figure:
    """A row of pictures for each class; rows: ``(k, C, H, W)``, perhaps of different k."""
    across = max(map(len, rows))
    height, width = rows[0].shape[-2:]
    inches = (WIDTH_INCHES - NAME_INCHES) / across
    figure = new_figure(len(rows) * inches * height / width + 0.5)
    set_title(figure, title)
    for axes, images, name in zip(_panels(figure, len(rows)), rows, names, strict=True):
        filled = torch.ones(across, *images.shape[1:])
        filled[: len(images)] = images
        axes.imshow(mosaic(filled, across).permute(1, 2, 0).numpy(), interpolation="nearest")
        words = cut_text(name, 68 * NAME_INCHES, FONT_TINY)
        axes.set_ylabel(
            words, rotation=0, ha="right", va="center", fontsize=FONT_TINY, parse_math=False
        )
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def pair_sheet(
    upper: Tensor, lower: Tensor, words: Sequence[str], *, across: int, title: str
) -> Figure:
    """Pictures with others below them, and words below both; all ``(n, C, H, W)``."""
    count, _, height, width = upper.shape
    inches, down = WIDTH_INCHES / across, -(-count // across)
    figure = new_figure(
        down * (inches * (height + lower.shape[2] * width / lower.shape[3]) / width + 0.35) + 0.5
    )
    set_title(figure, title)
    for row, axes in enumerate(_panels(figure, down)):
        part = slice(row * across, (row + 1) * across)
        size = tuple(lower.shape[-2:])
        both = torch.cat([_as_large(upper[part], size), lower[part]])
        filled = torch.ones(2 * across, both.shape[1], *size)
        filled[: len(both) // 2], filled[across : across + len(both) // 2] = both.chunk(2)
        axes.imshow(mosaic(filled, across).permute(1, 2, 0).numpy(), interpolation="nearest")
        step = size[1] + max(1, round(GAP * size[1]))
        for place, text in enumerate(words[part]):
            axes.text(
                place * step + size[1] / 2,
                2 * size[0] * (1 + GAP),
                wrap_lines_to(text, inches),
                ha="center",
                va="top",
                fontsize=FONT_TINY,
                color=GREY,
                parse_math=False,
            )
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def _as_large(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pictures enlarged or reduced to ``size``, pixel by pixel."""
    if tuple(images.shape[-2:]) == size:
        return images
    return torch.nn.functional.interpolate(images, size, mode="nearest")


def _panels(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(count, 1, squeeze=False)[:, 0])
