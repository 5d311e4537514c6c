"""Words above a picture, within the room there is: its name, its true class, what was predicted.

name, classes, probability -> one or two lines, cut in the middle where they are too long
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vitlit.files import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MIN_CLASS_SHARE = 0.4  # of the room, for the true class beside a long name


def text_width(text: str, size: float) -> float:
    """Points across of one line in matplotlib's font, of ``size`` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(
        text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]
    )


def cut_text(text: str, room: float, size: float) -> str:
    """The text, or its two ends around an ellipsis, at most ``room`` points across."""
    found = text_width(text, size)
    kept = len(text) if found <= room else int(len(text) * room / found)
    while kept > 2 and text_width(_both_ends(text, kept), size) > room:
        kept -= 1
    return _both_ends(text, kept)


def _both_ends(text: str, kept: int) -> str:
    if kept >= len(text):
        return text
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def name_line(name: str, label: str | None, room: float, size: float) -> str:
    """``cat.png, true class cat``, or of these what is known.

    name: a file, of which folders are left out, or other words; empty where there is none.
    """
    name = printable(PurePath(name).name)
    if label is None:
        return cut_text(name, room, size)
    before = "true class " if not name else ", true class "
    left = room - text_width(before, size)
    label = cut_text(
        printable(label), max(MIN_CLASS_SHARE * left, left - text_width(name, size)), size
    )
    return cut_text(name, left - text_width(label, size), size) + before + label


def verdict_line(
    predicted: str, probability: float, is_right: bool | None, room: float, size: float
) -> str:
    """``predicted dog (0.71), wrong``; is_right: None where the true class is not known."""
    after = f" ({probability:.2f})" + {None: "", True: ", right", False: ", wrong"}[is_right]
    left = room - text_width("predicted " + after, size)
    return f"predicted {cut_text(printable(predicted), left, size)}{after}"


def set_title(figure: Figure, title: str) -> None:
    """Write the title on as many lines as it needs."""
    text = fill(title, int(13 * figure.get_figwidth()))
    figure.suptitle(text, fontsize=FONT_SMALL, parse_math=False)


def shorten(name: str, most: int) -> str:
    """The name, or its two ends around an ellipsis: ``most`` letters in all."""
    end = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - end]}…{name[-end:]}"


def fit_lines_to(text: str, inches: float) -> str:
    """Each line of it, cut to a panel's width."""
    return "\n".join(cut_text(line, 68 * inches, FONT_TINY) for line in text.split("\n"))


WIDTH_INCHES, DPI = 8.0, 120  # inches, dots per inch
COLORMAP = "viridis"
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#666666"
FONT_SMALL, FONT_TINY = 9, 7  # sizes of type in points


def new_figure(height: float, width: float = WIDTH_INCHES) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def draw_image(axes: Axes, image: Tensor, title: str = "") -> None:
    """Draw ``(C, H, W)`` in [0, 1]: three channels are colour, any other number is averaged."""
    pixels = image.detach().float().cpu().clamp(0, 1)
    pixels = pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels.mean(dim=0)
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1)
    clear_frame(axes, title)
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.5)  # white ends on white paper


def clear_frame(axes: Axes, title: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=FONT_TINY, color=GREY, parse_math=False)


def hide_axes(axes: Iterable[Axes]) -> None:
    for one in axes:
        one.set_axis_off()


def shrink_colorbar(bar: Any) -> None:
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=FONT_TINY)
    bar.ax.yaxis.label.set_fontsize(FONT_SMALL)


def tidy_axes(axes: Axes) -> None:
    """Ticks at whole numbers of the horizontal axis, a light grid, no box."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=FONT_TINY)
    axes.xaxis.label.set_fontsize(FONT_SMALL)
    axes.yaxis.label.set_fontsize(FONT_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)


def to_array(figure: Figure) -> Any:
    """The figure's pixels: numpy uint8 ``(height, width, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
