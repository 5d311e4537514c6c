"""Figures of attribution and analysis: tensors in, matplotlib Figures out.

attention maps (B, rows, cols), images (B, C, H, W) in [0, 1] -> Figure

Figures are about 8 inches wide at 120 dots per inch. They are built without pyplot and without
changing matplotlib's settings; ``figure.savefig("name.png")`` writes one. The colours suit the
colour-blind: viridis, and those of Okabe and Ito (2008).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.explain.attribution import overlay
from vitlit.files import printable
from vitlit.plotting import (
    BLUE,
    COLORMAP,
    FONT_SMALL,
    FONT_TINY,
    GREY,
    VERMILION,
    WIDTH_INCHES,
    clear_frame,
    cut_text,
    draw_image,
    hide_axes,
    name_line,
    new_figure,
    shrink_colorbar,
    tidy_axes,
    verdict_line,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PEAK_CAPTION = (
    "each map is scaled from its minimum to its maximum; peak: maximum over mean, 1.00× is flat"
)
# patches along one side of the position figure; of larger grids every second, third, … is shown
MAX_TILES = 14


def attention_overview(
    images: Tensor,
    maps: Mapping[str, Tensor],
    *,
    probabilities: Tensor | None = None,
    class_names: Sequence[str],
    names: Sequence[str] = (),
    labels: Sequence[int] = (),
) -> Figure:
    """Each image beside copies lit by its maps, under its name and the predicted class.

    images: ``(B, C, H, W)`` in [0, 1]; maps: by title, each ``(B, rows, cols)``, such as
    ``cls_map`` and the ``patch_map`` of ``rollout``; probabilities: ``(B, num_classes)``, None for
    a model without a head; names and labels: of the images, empty if they have none; a label of
    -1 is not known.
    """
    count, _, height, width = images.shape
    across = min(2, count)
    panel = WIDTH_INCHES / (across * (1 + len(maps)))
    down = ceil(count / across)
    figure = new_figure(down * (panel * height / width + 0.68) + 0.2)  # inches: titles, caption
    lit = {title: overlay(images, found) for title, found in maps.items()}
    room = 68 * WIDTH_INCHES / across  # points; an inch has 72, so a little less than the part
    parts = figure.subfigures(down, across, squeeze=False, wspace=0.04).flat
    for i, part in enumerate(list(parts)[:count]):
        true = labels[i] if labels and labels[i] >= 0 else None
        name = names[i] if names else ""
        lines = [name_line(name, None if true is None else class_names[true], room, FONT_SMALL)]
        is_right = None
        if probabilities is not None:
            sure, best = probabilities[i].detach().max(dim=0)
            # None, not False: without a true class nothing is said to be wrong
            is_right = None if true is None else true == int(best)
            lines.append(
                verdict_line(class_names[int(best)], float(sure), is_right, room, FONT_SMALL)
            )
        colour = VERMILION if is_right is False else "black"
        title = "\n".join(filter(None, lines))
        part.suptitle(title, fontsize=FONT_SMALL, color=colour, parse_math=False)
        first, *others = part.subplots(1, 1 + len(maps), squeeze=False)[0]
        draw_image(first, images[i], "image")
        for axes, (name, pictures) in zip(others, lit.items(), strict=True):
            draw_image(axes, pictures[i], f"{name}\n{_peak_over_mean(maps[name][i])}")
    if maps:
        figure.supxlabel(PEAK_CAPTION, fontsize=FONT_TINY, color=GREY)
    return figure


def _peak_over_mean(found: Tensor) -> str:
    """How far a map is from flat; its overlay alone does not show it, as each has its own scale."""
    mean = float(found.float().mean())
    if not mean > 0:
        return "all 0"  # relevance, if nothing supports the class
    ratio = float(found.max()) / mean
    return f"peak {ratio:.2f}×" if ratio < 10 else f"peak {ratio:.0f}×"


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
