"""Words above pictures: whole where there is room, and else never wider than it."""

import pytest
import torch
from matplotlib.figure import Figure

from vitlit.evaluation.multi_label_report import class_bars
from vitlit.evaluation.regression_report import draw_errors, residual_figure, scatter_figure
from vitlit.plotting import cut_text, name_line, new_figure, round_ticks, text_width, verdict_line

LONG = "/home/somebody/photographs/IMG_20240812_0001.jpeg"


@pytest.mark.parametrize("text", ["cat.png", "W" * 9, "$x_2$ %"])
def test_widths_are_those_of_matplotlib(text: str) -> None:
    figure = Figure(dpi=72)  # a dot is a point
    drawn = figure.text(0, 0, text, fontsize=9, parse_math=False).get_window_extent()
    assert text_width(text, 9) == pytest.approx(drawn.width, rel=0.06)  # hinting


def test_what_fits_is_left_alone() -> None:
    assert cut_text("cat.png", 200, 9) == "cat.png"


@pytest.mark.parametrize("room", [40, 100, 150])
def test_what_does_not_fit_keeps_both_ends(room: float) -> None:
    found = cut_text(LONG, room, 9)
    first, last = found.split("…")
    assert LONG.startswith(first)
    assert LONG.endswith(last)
    assert text_width(found, 9) <= room


def test_the_true_class_stands_behind_the_name() -> None:
    assert name_line("cat.png", "cat", 300, 9) == "cat.png, true class cat"
    assert name_line("cat.png", None, 300, 9) == "cat.png"
    assert name_line("photos/cats/cat.png", "cat", 300, 9) == "cat.png, true class cat"
    assert name_line("", "cat", 300, 9) == "true class cat"


def test_a_long_name_leaves_room_for_the_class() -> None:
    found = name_line("a" * 99 + ".jpeg", "W" * 60, 270, 9)
    assert ".jpeg, true class WWW" in found
    assert text_width(found, 9) <= 270


@pytest.mark.parametrize(
    ("is_right", "end"), [(True, "(0.71), right"), (False, "(0.71), wrong"), (None, "(0.71)")]
)
def test_the_verdict_is_in_words(is_right: bool | None, end: str) -> None:
    assert verdict_line("dog", 0.711, is_right, 270, 9) == f"predicted dog {end}"
    long = verdict_line("W" * 60, 0.711, is_right, 270, 9)
    assert long.endswith(end)
    assert text_width(long, 9) <= 270


def test_what_cannot_be_printed_becomes_an_escape() -> None:
    assert name_line("a\nb\udcff.png", None, 300, 9) == r"a\nb\udcff.png"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (22.77, 85.92, [30, 40, 50, 60, 70, 80]),
        (0.21, 0.83, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
        (-0.31, 0.29, [-0.3, -0.2, -0.1, 0, 0.1, 0.2]),
    ],
)
def test_ticks_are_round_and_within_the_range(low: float, high: float, ticks: list[float]) -> None:
    found = round_ticks(low, high)
    assert found == pytest.approx(ticks)
    assert 0.0 not in ticks or 0.0 in found  # itself, not a sum of steps near it


def test_numbers_in_a_small_range_have_ticks_on_both_axes() -> None:
    values = torch.linspace(0.21, 0.83, 20)
    axes = scatter_figure(values, values, "ripeness", title="20 images").axes[0]
    assert axes.get_xticks().tolist() == axes.get_yticks().tolist()
    assert len(axes.get_xticks()) > 3
    left = residual_figure(values, values, "ripeness", title="20 images").axes[0]
    low, high = left.get_xlim()
    assert sum(low <= tick <= high for tick in left.get_xticks()) > 3


def test_no_bar_is_behind_the_legend() -> None:
    classes = {name: {"ap": 0.9, "f1": 0.9} for name in "abc"}
    figure = class_bars(classes, title="3 classes")
    axes = figure.axes[0]
    figure.draw_without_rendering()
    below = axes.get_legend().get_window_extent().y0
    assert all(bar.get_window_extent().y1 <= below for bar in axes.patches)


@pytest.mark.parametrize("errors", [[5e7], [3e8, 3e8], [1e9, 1e9 + 64]])
def test_errors_that_are_neighbours_in_float32_are_drawn(errors: list[float]) -> None:
    axes = new_figure(2).subplots()
    draw_errors(axes, torch.tensor(errors))
