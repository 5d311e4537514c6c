"""Lines for people: columns, breaks, and numbers with units."""

import io
import os
import re
import select
import shlex
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vitlit.__main__ import main
from vitlit.commands.own_commands import explain_lines
from vitlit.images.bad_images import print_bad_images
from vitlit.images.image_store import BadFile
from vitlit.messages import (
    counted,
    filled,
    fitted,
    labelled,
    labelled_command,
    print_error,
    short_number,
    short_time,
)

LONG = "a file of pixels is damaged; " * 9 + "run `vitlit fit --config digits.yaml` again"


def test_a_noun_is_in_the_plural_unless_there_is_one() -> None:
    found = [counted(*one) for one in ((1, "image"), (1200, "image"), (1, "class"), (0, "class"))]
    assert found == ["1 image", "1,200 images", "1 class", "0 classes"]


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


@contextmanager
def terminal(columns: int) -> Iterator[int]:
    """A terminal in place of standard error, within the block; yields what shows its words."""
    # not a fixture: pytest captures the stream anew when the fixtures are made
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    shown, end = os.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(end, "w", encoding="utf-8") as stream:  # noqa: PTH123 - a handle, not a path
        before, sys.stderr = sys.stderr, stream
        try:
            yield shown
        finally:
            sys.stderr = before
    os.close(shown)


def read_screen(shown: int) -> str:
    found = b""
    while select.select([shown], [], [], 0.1)[0]:
        found += os.read(shown, 10_000)
    return found.decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_messages_fit_into_the_terminal_that_shows_them(columns: int) -> None:
    with terminal(columns) as shown:
        assert main(["predict", "x" * 99, "--data.images", "no/such"]) == 2
        assert main(["fitt"]) == 2
        lines = read_screen(shown).splitlines()
    [first] = [number for number, line in enumerate(lines) if "unknown command" in line]
    assert max(len(line) for line in lines if "x" * 99 not in line) <= columns
    assert lines[first + 1].startswith("  ")
    assert " ".join(map(str.strip, lines[first:])).endswith("did you mean fit?")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_command_in_a_message_and_its_indent_stay_whole(columns: int) -> None:
    with terminal(columns):
        lines = fitted(f"short\n  {LONG}\n").split("\n")
    assert lines[0] == "short"
    assert lines[1].startswith("  a file")
    assert all(re.match(" {4}[^ ]", line) for line in lines[2:-1])
    assert max(map(len, lines)) <= columns
    assert sum("`vitlit fit --config digits.yaml`" in line for line in lines) == 1
    assert " ".join(map(str.strip, lines[1:-1])) == LONG
    assert lines[-1] == ""


def test_a_list_of_bad_images_fits_into_a_terminal_and_stays_whole_in_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = [BadFile(0, "bad.jpg", f"not an image of a known format, {LONG}")]
    with terminal(80) as shown:
        monkeypatch.setattr(sys, "stdout", sys.stderr)
        print_bad_images(bad, 3)
        lines = read_screen(shown).splitlines()
    assert lines[0] == "1 of 4 images cannot be read:"
    assert len(lines) > 2
    assert max(map(len, lines)) <= 80
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with terminal(80):  # of standard error alone
        print_bad_images(bad, 3)
        assert len(sys.stdout.getvalue().splitlines()) == 2  # type: ignore[attr-defined]


def test_the_files_of_an_explanation_are_listed_within_80_columns(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"picture-{number}.png").touch()
    first, *lines = explain_lines(tmp_path, has_head=False)
    assert first.startswith("wrote       ")
    assert " ".join(first.split()[2:]) == " ".join(sorted(p.name for p in tmp_path.iterdir()))
    assert all(len(line) <= 80 for line in first.splitlines()[1:])
    assert [len(line) <= 80 for line in lines] == [True]


def test_a_file_of_messages_keeps_them_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert fitted(LONG) == LONG
    monkeypatch.setattr(sys, "stderr", None)  # closed
    assert fitted(LONG) == LONG


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


def test_a_terminal_obeys_no_name_in_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("classes a\x1b[2J, b\r, \u202ec and d\xa0e:\n\tf")
    assert capsys.readouterr().err == "classes a\\x1b[2J, b\\r, \\u202ec and d\xa0e:\n\tf\n"
