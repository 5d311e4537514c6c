"""Lines for people: columns, breaks, and numbers with units."""

import shlex

import pytest

from vitlit.messages import filled, labelled, labelled_command, short_number, short_time


def test_text_stays_in_its_column_within_80_letters() -> None:
    lines = labelled("weights", "word " * 40 + "x" * 90).splitlines()
    assert lines[0].startswith("weights     word")
    assert all(line.startswith(" " * 12) for line in lines[1:])
    assert all(len(line) <= 80 for line in lines[:-1])
    assert lines[-1].strip() == "x" * 90  # a path is never broken


def test_filled_text_keeps_long_words_whole() -> None:
    lines = filled("a word " * 20 + "x" * 99).splitlines()
    assert lines[-1] == "  " + "x" * 99
    assert all(len(line) <= 80 for line in lines[:-1])
    assert [line[:2] for line in lines[1:]] == ["  "] * (len(lines) - 1)


def test_a_broken_command_is_still_one_for_a_shell() -> None:
    parts = ["vitlit predict", "--ckpt_path " + "a/" * 19, "--data.images PHOTOS"]
    text = labelled_command("next", *parts)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert len(text.splitlines()) == 2
    words = shlex.split(text.removeprefix("next").replace("\\\n", ""))
    assert words == " ".join(parts).split()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (950, "950"),
        (999.6, "1.00 k"),
        (85_594, "85.6 k"),
        (999_600, "1.00 M"),
        (35.1e9, "35.1 G"),
        (123e9, "123 G"),
        (1.1e12, "1.10 T"),
    ],
)
def test_large_numbers_have_three_digits(value: float, text: str) -> None:
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (59.6, "1:00"), (108, "1:48"), (7308, "2:01:48"), (266_400, "3 d 02 h")],
)
def test_times_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert short_time(seconds) == text
