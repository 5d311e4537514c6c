"""What all figures share: their style, images on axes, and titles that fit their width.

name, classes, probability -> lines of a title, cut in the middle if they are too long;
image (C, H, W) -> axes; figure -> uint8 (height, width, 3);
images (B, C, H, W), strength on the patch grid (B, rows, cols) -> overlays (B, 3, H, W)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.files import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES, DPI = 8.0, 120  # inches, dots per inch
COLORMAP = "viridis"
# Blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#666666"
# a bright vermilion, which the colour-blind tell from grey, and seen on dark and on light images
OVERLAY_COLOUR, OVERLAY_OPACITY = (0.95, 0.38, 0.0), 0.9
DARKEST, CONTRAST = 0.1, 0.75  # of the grey image below: black and white leave room for colour
FONT_SMALL, FONT_TINY = 9, 7  # sizes of type in points
SHEET_ROOM = 68 * WIDTH_INCHES / 6  # points of a line below one of six pictures in a row
MIN_CLASS_SHARE = 0.4  # share of a line that the true class may take beside a long name


def text_width(text: str, size: float) -> float:
    """Width in points of one line in matplotlib's font of ``size`` points."""
    # measured, not counted: an m is three times as wide as an i
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(
        text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]
    )


def cut_text(text: str, room: float, size: float) -> str:
    """The text, or its two ends around an ellipsis, at most ``room`` points wide."""
    found = text_width(text, size)
    # a guess from the mean width of a letter, then letter by letter
    kept = len(text) if found <= room else int(len(text) * room / found)
    while kept > 2 and text_width(_both_ends(text, kept), size) > room:
        kept -= 1
    return _both_ends(text, kept)


def _both_ends(text: str, kept: int) -> str:
    """The first and last letters of a text, ``kept`` in all, around an ellipsis."""
    if kept >= len(text):
        return text
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def name_line(name: str, label: str | None, room: float, size: float) -> str:
    """``cat.png, true class cat``, or the part of it that is known.

    name: a path, whose folders are left out, or other words; may be empty. room: the width in
    points; size: of the font in points.
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
    """``predicted dog (0.71), wrong``; is_right: None if the true class is not known."""
    after = f" ({probability:.2f})" + {None: "", True: ", right", False: ", wrong"}[is_right]
    left = room - text_width("predicted " + after, size)
    return f"predicted {cut_text(printable(predicted), left, size)}{after}"


def set_title(figure: Figure, title: str) -> None:
    """Write the title on as many lines as it needs."""
    text = fill(title, int(13 * figure.get_figwidth()))  # about 13 letters of 9 points in an inch
    # parse_math: names of files and classes may hold a $, which would start a formula
    figure.suptitle(text, fontsize=FONT_SMALL, parse_math=False)


def fit_lines_to(text: str, inches: float) -> str:
    """Each line of a text, cut to the width of a panel in inches."""
    # 72 points are an inch; 4 of them stay free between neighbours
    return "\n".join(cut_text(line, 68 * inches, FONT_TINY) for line in text.split("\n"))


def wrap_lines_to(text: str, inches: float) -> str:
    """Each line of a text, broken to the width of a panel in inches; nothing is left out.

    Lines break at spaces, else where the width ends, as in a long name of a file.
    """
    room = 68 * inches  # 72 points are an inch; 4 of them stay free between neighbours
    lines: list[str] = []
    for line in text.split("\n"):
        lines.append("")
        for word in line.split(" "):
            joined = f"{lines[-1]} {word}" if lines[-1] else word
            if text_width(joined, FONT_TINY) <= room:
                lines[-1] = joined
                continue
            parts = _broken(word, room)
            lines[-1:] = [lines[-1], *parts] if lines[-1] else parts
    return "\n".join(lines)


def _broken(word: str, room: float) -> list[str]:
    """A word in parts of at most ``room`` points, at least one letter each."""
    parts = [""]
    for letter in word:
        if parts[-1] and text_width(parts[-1] + letter, FONT_TINY) > room:
            parts.append("")
        parts[-1] += letter
    return parts


def new_figure(height: float, width: float = WIDTH_INCHES) -> Figure:
    """An empty figure, height and width in inches."""
    # Not pyplot: it keeps figures alive and may look for a display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def plain_pixels(image: Tensor) -> Any:
    """An image ``(C, H, W)`` as RGB ``(H, W, 3)``, or as the mean of its channels ``(H, W)``."""
    pixels = image.detach().float().cpu().clamp(0, 1)
    return (pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels.mean(dim=0)).numpy()


def coloured(images: Tensor, strength: Tensor) -> Tensor:
    """Images in soft grey, coloured where the strength is above 0: ``(B, 3, H, W)`` in [0, 1].

    images: ``(B, C, H, W)`` in [0, 1]; strength: ``(B, rows, cols)`` in [0, 1], resized to the
    image (bilinear).
    """
    grey = DARKEST + CONTRAST * images.mean(dim=1, keepdim=True)
    strength = F.interpolate(strength[:, None].to(images), images.shape[-2:], mode="bilinear")
    colour = torch.tensor(OVERLAY_COLOUR).to(images).view(1, 3, 1, 1)
    return torch.lerp(grey.expand(-1, 3, -1, -1), colour, OVERLAY_OPACITY * strength)


def draw_image(axes: Axes, image: Tensor, title: str = "") -> None:
    """Draw an image ``(C, H, W)`` in [0, 1]: 3 channels as RGB, others as the mean in grey."""
    axes.imshow(plain_pixels(image), cmap="gray", vmin=0, vmax=1)
    clear_frame(axes, title)
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.5)  # or white images have no edge


def clear_frame(axes: Axes, title: str) -> None:
    """Remove the ticks and the frame, and set a small title."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=FONT_TINY, color=GREY, parse_math=False)


def hide_axes(axes: Iterable[Axes]) -> None:
    """Leave panels of a grid empty."""
    for one in axes:
        one.set_axis_off()


def shrink_colorbar(bar: Any) -> None:
    """Small type and no outline, as the panels beside it have."""
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=FONT_TINY)
    bar.ax.yaxis.label.set_fontsize(FONT_SMALL)


def tidy_axes(axes: Axes, *, whole: bool = True) -> None:
    """Ticks at whole numbers of the horizontal axis, if so, a light grid, no box around it."""
    from matplotlib.ticker import MaxNLocator

    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=FONT_TINY)
    axes.xaxis.label.set_fontsize(FONT_SMALL)
    axes.yaxis.label.set_fontsize(FONT_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.5)
    axes.set_axisbelow(True)


def round_ticks(low: float, high: float) -> list[float]:
    """Some round numbers from ``low`` to ``high``, evenly spaced."""
    from matplotlib.ticker import MaxNLocator

    ticks = map(float, MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(low, high))
    # 0 itself, where the sum of steps is 5e-17
    near = [0.0 if abs(one) < 1e-9 * (high - low) else one for one in ticks]
    return [one for one in near if low <= one <= high]


def to_array(figure: Figure) -> Any:
    """The figure's pixels: NumPy uint8 ``(height, width, 3)``."""
    # Agg by name, which needs no display, whatever backend the user has set
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
