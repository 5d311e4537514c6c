"""Words above pictures: whole where there is room, and else never wider than it."""

import pytest
from matplotlib.figure import Figure

from vitlit.plotting import cut_text, name_line, text_width, verdict_line

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
