"""Figures of attribution and analysis: tensors in, matplotlib Figures out.

attention maps (B, rows, cols), images (B, C, H, W) in [0, 1] -> Figure

Figures are about 8 inches wide at 120 dots per inch. They are built without pyplot and without
changing matplotlib's settings; ``figure.savefig("name.png")`` writes one. The colours suit the
colour-blind: viridis, and those of Okabe and Ito (2008).
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.files import printable
from vitlit.plotting import (
    BLUE,
    COLORMAP,
    FONT_SMALL,
    FONT_TINY,
    GREY,
    WIDTH_INCHES,
    clear_frame,
    cut_text,
    draw_image,
    hide_axes,
    new_figure,
    shrink_colorbar,
    tidy_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# patches along one side of the position figure; of larger grids every second, third, … is shown
MAX_TILES = 14


def attention_heads(image: Tensor, maps: Tensor, *, block: int, name: str = "") -> Figure:
    """One image and what each head of one block looks at, all heads on one scale.

    image: ``(C, H, W)`` in [0, 1]; maps: ``(h, rows, cols)``, as :func:`patch_map` gives them;
    block: its number, and name: the image's, for the title.
    """
    count = 1 + len(maps)
    down = ceil(count / 7)
    across = ceil(count / down)  # as few columns as that many rows need: rows of equal length
    panel = (WIDTH_INCHES - 1) / across  # an inch for the colour bar
    figure = new_figure(
        down * (panel * image.shape[1] / image.shape[2] + 0.2) + (0.45 if name else 0.3)
    )
    title = f"attention of the heads of block {block}"
    if name:
        title += "\n" + cut_text(printable(name), 68 * WIDTH_INCHES, FONT_SMALL)
    figure.suptitle(title, fontsize=FONT_SMALL, parse_math=False)
    grid = figure.subplots(down, across, squeeze=False)
    first, *others = grid.flat
    draw_image(first, image, "image")
    values = maps.detach().float().cpu()
    for i, (axes, head) in enumerate(zip(others, values, strict=False)):
        # one scale for all heads, or a diffuse head would look as sharp as any other
        drawn = axes.imshow(head.numpy(), cmap=COLORMAP, vmin=0, vmax=float(values.max()))
        clear_frame(axes, f"head {i}")
    hide_axes(others[len(maps) :])
    bar = figure.colorbar(drawn, ax=grid, label="share of attention", shrink=0.9)
    shrink_colorbar(bar)
    return figure


def attention_distance(distances: Tensor, *, uniform: float | None = None) -> Figure:
    """Mean attention distance by depth, one dot per head (Dosovitskiy et al., 2021, fig. 7).

    distances: ``(L, h)`` in pixels, from :func:`mean_attention_distance`; uniform: the distance
    of uniform attention, drawn as a line.
    """
    depth, heads = distances.shape
    figure = new_figure(4.0)
    axes = figure.subplots()
    blocks = torch.arange(depth).repeat_interleave(heads)
    values = distances.detach().float().cpu()
    axes.scatter(
        blocks.numpy(), values.flatten().numpy(), s=28, color=BLUE, alpha=0.7, linewidths=0
    )
    if uniform is not None:
        axes.axhline(uniform, color=GREY, linestyle="--", linewidth=1, label="uniform attention")
        axes.legend(fontsize=FONT_SMALL, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
    axes.set(xlabel="block", ylabel="mean attention distance (pixels)")
    axes.set_xlim(-0.5, depth - 0.5)
    # at least one pixel, for a grid of a single patch, where all distances are 0
    axes.set_ylim(0, 1.1 * max(float(values.max()), uniform or 0.0, 1.0))
    axes.set_title("how far each head looks", fontsize=FONT_SMALL, loc="left")
    tidy_axes(axes)
    axes.set_xticks(range(0, depth, ceil(depth / 24)))
    return figure


def position_grid(similarity: Tensor) -> Figure:
    """Similarity of each patch's position embedding to all others, tile by tile (fig. 7 centre).

    similarity: ``(N, rows, cols)`` from :func:`position_similarity`; the tile at a patch's place
    is that patch's row. Large grids show every second, third, … patch.
    """
    _, rows, cols = similarity.shape
    step = ceil(max(rows, cols) / MAX_TILES)
    values = similarity.detach().float().cpu()
    tiles = values.view(rows, cols, rows, cols)[::step, ::step]
    mosaic = _mosaic(tiles)
    height, width = mosaic.shape
    panel = min(WIDTH_INCHES - 1.6, 4.5 * width / height)  # inches across, and at most 4.5 down
    figure = new_figure(panel * height / width + 0.8, max(panel + 1.6, WIDTH_INCHES / 2))
    axes = figure.subplots()
    down, across = tiles.shape[:2]
    drawn = axes.imshow(
        mosaic.numpy(),
        cmap=COLORMAP,
        vmin=min(float(values.min()), 0.9),  # so that nearly equal positions look equal
        vmax=1,
        interpolation="nearest",
        extent=(0, across, down, 0),  # a unit for each tile
        aspect=height / down * across / width,
    )
    axes.spines[:].set_visible(False)
    axes.set_xticks([i + 0.5 for i in range(across)], [str(i * step) for i in range(across)])
    axes.set_yticks([i + 0.5 for i in range(down)], [str(i * step) for i in range(down)])
    axes.tick_params(length=0, labelsize=FONT_TINY)
    axes.set_xlabel("column", fontsize=FONT_SMALL)
    axes.set_ylabel("row", fontsize=FONT_SMALL)
    figure.suptitle("similarity of position embeddings, by patch", fontsize=FONT_SMALL)
    shrink_colorbar(figure.colorbar(drawn, ax=axes, label="cosine similarity", shrink=0.9))
    return figure


def _mosaic(tiles: Tensor) -> Tensor:
    """``(down, across, rows, cols)`` -> ``(height, width)``; NaN between tiles is drawn as white.

    Small tiles are enlarged, so that the gaps of one pixel are narrow beside them.
    """
    scale = ceil(12 / max(tiles.shape[2:]))
    tiles = tiles.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    gapped = F.pad(tiles, (0, 1, 0, 1), value=float("nan")).transpose(1, 2)
    return gapped.flatten(2).flatten(0, 1)[:-1, :-1]


def embedding_filters(filters: Tensor) -> Figure:
    """Principal components of the patch embedding, rows of 7 (fig. 7 left).

    filters: ``(n, C, P, P)`` from :func:`principal_filters`. Each has its own contrast: its
    largest absolute value becomes white or black, and 0 is mid-grey.
    """
    count = len(filters)
    across = min(7, max(count, 1))
    down = max(ceil(count / across), 1)
    panel = WIDTH_INCHES / 7
    figure = new_figure(down * panel + 0.35, max(across * panel, WIDTH_INCHES / 2))
    figure.suptitle("principal filters of the patch embedding", fontsize=FONT_SMALL)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    filters = filters.detach().float().cpu()
    # clamped: a filter may be all zeros
    largest = filters.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
    for one, picture in zip(axes, 0.5 + filters / (2 * largest), strict=False):
        draw_image(one, picture)
    hide_axes(axes[count:])
    return figure
