"""The figure of many images and their maps, composed as one picture.

images (B, C, H, W) in [0, 1], maps (B, rows, cols) -> Figure

All images are placed by their measures in inches on one pair of axes. With axes and a layout of its
own for each, the figure of 64 images took five times as long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from vitlit.explain.attribution import FULL_COLOUR, overlay
from vitlit.plotting import (
    FONT_SMALL,
    FONT_TINY,
    GREY,
    VERMILION,
    WIDTH_INCHES,
    fit_lines_to,
    name_line,
    new_figure,
    plain_pixels,
    verdict_line,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PEAK_CAPTION = (
    f"colour: attention over its mean, none at 1× and below, full at {FULL_COLOUR}×; "
    "peak: maximum over mean, 1.00× is flat"
)
# inches: around all, between images beside and below each other, between maps, below a text
MARGIN, PART_GAP, ROW_GAP, PANEL_GAP, TEXT_GAP = 0.1, 0.2, 0.2, 0.06, 0.03
LINE_SMALL, LINE_TINY = 0.16, 0.12  # inches that a line takes in either size of type


class Sheet(NamedTuple):
    """Where everything is, in inches from the top left corner.

    across, down: images beside and below each other; slots: panels of each; width, height: of one
    panel; lines: of an image's title.
    """

    across: int
    down: int
    slots: int
    width: float
    height: float
    lines: int

    @classmethod
    def of(cls, shape: tuple[int, int], count: int, slots: int, lines: int) -> Sheet:
        """For ``count`` images of ``shape`` (height, width) in pixels."""
        across = min(2, count)
        part = (WIDTH_INCHES - 2 * MARGIN - (across - 1) * PART_GAP) / across
        width = (part - (slots - 1) * PANEL_GAP) / slots
        return cls(across, ceil(count / across), slots, width, width * shape[0] / shape[1], lines)

    @property
    def part_width(self) -> float:
        return self.slots * self.width + (self.slots - 1) * PANEL_GAP

    @property
    def above(self) -> float:
        """Height of the lines above a panel: the title, and two of the map."""
        return self.lines * LINE_SMALL + 2 * LINE_TINY + 2 * TEXT_GAP

    @property
    def total_height(self) -> float:
        return 2 * MARGIN + self.down * (self.above + self.height + ROW_GAP) + LINE_TINY

    def corner(self, index: int, slot: int = 0) -> tuple[float, float]:
        """The top left corner of a panel."""
        down, across = divmod(index, self.across)
        left = MARGIN + across * (self.part_width + PART_GAP) + slot * (self.width + PANEL_GAP)
        return left, MARGIN + down * (self.above + self.height + ROW_GAP) + self.above


def attention_overview(
    images: Tensor,
    maps: Mapping[str, Tensor],
    *,
    probabilities: Tensor | None = None,
    class_names: Sequence[str],
    names: Sequence[str] = (),
    labels: Sequence[int] = (),
    named: Sequence[int] = (),
    note: str = "",
) -> Figure:
    """Each image beside copies coloured by its maps, under its name and the predicted class.

    images: ``(B, C, H, W)`` in [0, 1]; maps: by title, each ``(B, rows, cols)``, such as
    ``cls_map`` and the ``patch_map`` of ``rollout``; probabilities: ``(B, num_classes)``, None for
    a model without a head; names and labels: of the images, empty if they have none; a label of
    -1 is not known; named: the class that each title names, by default the most probable one; note:
    a line below all.
    """
    count, _, height, width = images.shape
    room = 68 * (WIDTH_INCHES / min(2, count) - MARGIN)  # points; an inch has 72: a little less
    titles = [
        _title(
            names[i] if names else "",
            labels[i] if labels and labels[i] >= 0 else None,
            None if probabilities is None else probabilities[i],
            class_names,
            room,
            named[i] if named else None,
        )
        for i in range(count)
    ]
    lines = max(title.count("\n") + bool(title) for title, _ in titles)
    sheet = Sheet.of((height, width), count, 1 + len(maps), lines)
    total = sheet.total_height + (LINE_TINY + TEXT_GAP if note else 0)
    figure = new_figure(total)
    figure.set_layout_engine("none")  # all is placed already
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH_INCHES), ylim=(total, 0))
    axes.set_axis_off()
    axes.autoscale(False)
    for i, (title, colour) in enumerate(titles):
        left, top = sheet.corner(i)
        _write(axes, left + sheet.part_width / 2, top - 2 * (LINE_TINY + TEXT_GAP), title, colour)
    _draw_panels(axes, sheet, 0, images, ["image"] * count)
    for slot, (name, found) in enumerate(maps.items(), 1):
        about = [f"{name}\n{_peak_over_mean(one)}" for one in found]
        _draw_panels(axes, sheet, slot, overlay(images, found), about)
    if maps:
        _write(axes, WIDTH_INCHES / 2, sheet.total_height - MARGIN, PEAK_CAPTION, GREY, FONT_TINY)
    if note:
        _write(axes, WIDTH_INCHES / 2, total - MARGIN, note, GREY, FONT_TINY)
    return figure


def _title(
    name: str,
    true: int | None,
    probabilities: Tensor | None,
    class_names: Sequence[str],
    room: float,
    named: int | None = None,
) -> tuple[str, str]:
    """The lines above an image, and their colour. room: in points; named: None for the surest."""
    lines = [name_line(name, None if true is None else class_names[true], room, FONT_SMALL)]
    is_right = None
    if probabilities is not None:
        best = int(probabilities.argmax()) if named is None else named
        sure = float(probabilities.detach()[best])
        # None, not False: without a true class nothing is said to be wrong
        is_right = None if true is None else true == best
        lines.append(verdict_line(class_names[best], sure, is_right, room, FONT_SMALL))
    return "\n".join(filter(None, lines)), VERMILION if is_right is False else "black"


def _write(axes: Axes, x: float, y: float, text: str, colour: str, size: int = FONT_SMALL) -> None:
    """Centred text whose last line ends at ``y``."""
    # parse_math: names of files and classes may hold a $, which would start a formula
    axes.text(
        x, y, text, size=size, color=colour, ha="center", va="bottom", gid=str(size),
        linespacing=1.1, parse_math=False,
    )  # fmt: skip


def _draw_panels(
    axes: Axes, sheet: Sheet, slot: int, pictures: Tensor, about: Sequence[str]
) -> None:
    """One panel of each image, with a frame, or white images would have no edge."""
    from matplotlib.patches import Rectangle

    for i, text in enumerate(about):
        left, top = sheet.corner(i, slot)
        extent = (left, left + sheet.width, top + sheet.height, top)
        pixels = plain_pixels(pictures[i])
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto")
        frame: dict[str, Any] = {"fill": False, "edgecolor": GREY, "linewidth": 0.5}
        axes.add_patch(Rectangle((left, top), sheet.width, sheet.height, **frame))
        text = fit_lines_to(text, sheet.width)
        _write(axes, left + sheet.width / 2, top - TEXT_GAP, text, GREY, FONT_TINY)


def _peak_over_mean(found: Tensor) -> str:
    """How far a map is from flat, in a number beside its colours."""
    mean = float(found.float().mean())
    if not mean > 0:
        return "all 0"  # relevance, if nothing supports the class
    ratio = float(found.max()) / mean
    return f"peak {ratio:.2f}×" if ratio < 10 else f"peak {ratio:.0f}×"
