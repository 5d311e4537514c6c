"""Figures for the HTML page of explain: tensors of ``analysis`` in, HTML with SVG or PNG out.

distances (L, h), position similarity (N, rows, cols), filters (k, C, P, P) -> HTML

Lines and words take their colours from page.css, so that they suit its light and its dark theme.
"""

from html import escape
from math import ceil, floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitlit.explain.figures import MAX_TILES
from vitlit.html_page import Bytes, image_uri
from vitlit.plotting import COLORMAP

# of the plot, in units of the SVG: width and height; left, right, top, bottom
PLOT_SIZE, MARGIN = (640, 260), (46, 12, 12, 38)
DISTANCE_CAPTION = (
    "How far each head looks: the distance in pixels from a patch to what it attends to, weighted "
    "by attention; a dot is a head. A low dot means that the head looks "
    "nearby, a high one that it looks across the whole image."
)
UNIFORM_CAPTION = " The dashed line, at {:.1f} pixels, is the distance of uniform attention."


def colors(values: NDArray[Any]) -> Bytes:
    """Values in [0, 1] -> RGBA ``(..., 4)``; NaN is transparent."""
    import matplotlib

    found: Bytes = matplotlib.colormaps[COLORMAP](np.ma.masked_invalid(values), bytes=True)
    return found


def _mosaic_with_gaps(tiles: Bytes, about: str) -> str:
    """Tiles ``(down, across, rows, cols, 4)`` -> an ``<img>`` of them, with gaps between."""
    down, across, rows, cols, _ = tiles.shape
    scale = ceil(12 / max(rows, cols))  # small tiles are enlarged: the gaps stay narrow
    tiles = tiles.repeat(scale, axis=2).repeat(scale, axis=3)
    gapped = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))  # transparent: all four are 0
    height, width = down * (rows * scale + 1), across * (cols * scale + 1)
    pixels = gapped.swapaxes(1, 2).reshape(height, width, 4)[:-1, :-1]
    return f'<img class="mosaic" alt="{escape(about)}" src="{image_uri(pixels)}">'


def similarity_figure(similarity: Tensor) -> str:
    """Position similarity ``(N, rows, cols)``, tile by tile, as HTML.

    The tile at a patch's place compares it with all others; large grids show every second, third,
    … patch.
    """
    _, rows, cols = similarity.shape
    step = ceil(max(rows, cols) / MAX_TILES)
    values = similarity.detach().float().cpu().numpy()
    tiles = values.reshape(rows, cols, rows, cols)[::step, ::step]
    low = min(float(values.min()), 0.9)  # as in figures.position_grid
    which = "each patch" if step == 1 else f"every patch whose row and column {step} divides"
    about = f"A grid of {tiles.shape[0]}x{tiles.shape[1]} tiles, one for {which}"
    return (
        f"<p>Cosine similarity of position embeddings. A tile compares the patch at its place "
        f"with all patches: dark is {low:.2f}, bright is 1.</p>"
        f"{_mosaic_with_gaps(colors((tiles - low) / (1 - low)), about)}"
    )


def filter_figure(filters: Tensor) -> str:
    """Principal filters of the patch embedding ``(k, C, P, P)`` as HTML; 0 is mid-grey."""
    values = filters.detach().float().cpu()
    if not len(values):
        return "<p>The patch embedding has no two filters that differ.</p>"
    if values.shape[1] != 3:  # grey, or channels that are no colours
        values = values.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    values = values / values.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
    tiles = (127.5 + 127.5 * values).round().byte().permute(0, 2, 3, 1).numpy()
    count, across = len(tiles), min(7, len(tiles))
    missing = -count % across
    tiles = np.pad(tiles, ((0, 0),) * 3 + ((0, 1),), constant_values=255)  # opaque
    tiles = np.pad(tiles, ((0, missing),) + ((0, 0),) * 3)  # transparent
    about = f"{count} filters, the strongest first, each with its own contrast"
    return (
        f"<p>The patterns that tell patches apart most: principal components of the patch "
        f"embedding's {values.shape[2]}x{values.shape[3]} filters, strongest first.</p>"
        f"{_mosaic_with_gaps(tiles.reshape(-1, across, *tiles.shape[1:]), about)}"
    )


def distance_figure(distances: Tensor, *, uniform: float | None = None) -> str:
    """Mean attention distance ``(L, h)`` in pixels, one dot per head, as HTML with a table.

    uniform: the distance of uniform attention, drawn as a line.
    """
    values = distances.detach().float().cpu().tolist()
    depth, heads = distances.shape
    highest = 1.1 * max(float(distances.max()), uniform or 0.0, 1.0)
    (width, height), (left, right, top, bottom) = PLOT_SIZE, MARGIN

    def x(block: float) -> str:
        return f"{left + (block + 0.5) / depth * (width - left - right):.1f}"

    def y(pixels: float) -> str:
        return f"{height - bottom - pixels / highest * (height - top - bottom):.1f}"

    def line(pixels: float, kind: str, label: str) -> str:
        return (
            f'<line class="{kind}" x1="{left}" x2="{width - right}" y1="{y(pixels)}" '
            f'y2="{y(pixels)}"/><text class="y" x="{left - 6}" y="{y(pixels)}">{label}</text>'
        )

    # ticks at multiples of 1, 2 or 5 times a power of ten: five to ten of them
    step = 10 ** floor(log10(highest))
    step *= 0.2 if highest < 2 * step else 0.5 if highest < 5 * step else 1
    ticks = [i * step for i in range(int(highest / step) + 1)]
    parts = [line(tick, "grid", f"{tick:g}") for tick in ticks]
    parts += [
        f'<text class="x" x="{x(i)}" y="{height - bottom + 16}">{i}</text>'
        for i in range(0, depth, ceil(depth / 24))  # at most 24 numbers, or they would overlap
    ]
    parts += [
        f'<circle cx="{x(i)}" cy="{y(pixels)}" r="4.5"><title>block {i}, head {j}: '
        f"{pixels:.1f} pixels</title></circle>"
        for i, row in enumerate(values)
        for j, pixels in enumerate(row)
    ]
    if uniform is not None:
        parts.append(line(uniform, "uniform", ""))
    return (
        f"<p>{DISTANCE_CAPTION}{'' if uniform is None else UNIFORM_CAPTION.format(uniform)}</p>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Mean attention distance of '
        f'each head, by block; the numbers are in the table below">{"".join(parts)}'
        f'<text class="x" x="{width / 2}" y="{height - 4}">block</text></svg>'
        f"<details><summary>The numbers</summary>{_table(values, heads)}</details>"
    )


def _table(values: list[list[float]], heads: int) -> str:
    names = "".join(f'<th scope="col">head {j}</th>' for j in range(heads))
    rows = "".join(
        f'<tr><th scope="row">block {i}</th>{"".join(f"<td>{v:.1f}</td>" for v in row)}</tr>'
        for i, row in enumerate(values)
    )
    return f'<div class="wide" tabindex="0"><table><tr><td></td>{names}</tr>{rows}</table></div>'


def model_figures(
    *,
    distance: Tensor,
    filters: Tensor,
    similarity: Tensor | None = None,
    uniform: float | None = None,
) -> dict[str, str]:
    """Headings and the HTML below them; arguments as of the functions above, None to leave out."""
    figures = {"Mean attention distance": distance_figure(distance, uniform=uniform)}
    if similarity is not None:
        figures["Position embeddings"] = similarity_figure(similarity)
    figures["Patch embedding"] = filter_figure(filters)
    return figures
