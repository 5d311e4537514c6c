"""Terminals and pipes of any kind: nothing that is printed costs a result."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment
from trainings import QUIET, RUN

from vitlit.__main__ import main

PROGRAM = """
import sys
from pathlib import Path
from vitlit.__main__ import _steady_streams
_steady_streams()
for number in range(2000):
    print(f"line {number} \\u2026 \\u732b")
    print(f"line {number} \\u2026 \\u732b", file=sys.stderr)
Path("done").write_text("done")
"""
posix = pytest.mark.skipif(os.name == "nt", reason="needs a shell")


def shell(line: str, folder: Path, **changes: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a line in which $0 is Python and $1 a program."""
    return subprocess.run(
        ["sh", "-c", line, sys.executable, PROGRAM],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        check=False,
    )


@posix
@pytest.mark.parametrize(
    "line",
    [
        '"$0" -c "$1" | head -1',
        '("$0" -c "$1" || touch failed) 2>&1 | head -1',
        '"$0" -c "$1" >&-',
        '"$0" -c "$1" 2>&-',
        '"$0" -c "$1" <&- >&- 2>&-',
        '"$0" -c "$1" > /dev/null',
    ],
)
def test_a_reader_that_leaves_and_a_closed_stream_end_nothing(line: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["done"]
    assert (tmp_path / "done").read_text() == "done"  # and no words in a file that got number 1
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


@posix
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_without_a_character_shows_its_escape(encoding: str, tmp_path: Path) -> None:
    done = shell('"$0" -c "$1"', tmp_path, PYTHONIOENCODING=encoding)
    expected = "line 0 … 猫".encode(encoding, errors="backslashreplace")
    assert done.stdout.splitlines()[0] == done.stderr.splitlines()[0] == expected
    assert done.returncode == 0


@posix
def test_a_full_disk_behind_the_output_is_no_silent_loss(tmp_path: Path) -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("needs /dev/full")
    done = shell('"$0" -c "$1" > /dev/full', tmp_path)
    assert done.returncode != 0


@posix
@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ('"$0" -m vitlit $1 | head -1', {}),
        ('"$0" -m vitlit $1 >&- 2>&-', {}),
        ('"$0" -m vitlit $1', {"PYTHONIOENCODING": "ascii"}),
        ('"$0" -m vitlit $1', {"PYTHONIOENCODING": "cp1252"}),
    ],
)
def test_predictions_are_written_whoever_reads_the_words(
    line: str, changes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    assert main([*RUN, "--trainer.max_epochs=1"]) == 0
    Path("photos").mkdir()
    for number in range(30):
        Image.new("L", (8, 8), 8 * number).save(f"photos/猫{number}.png")
    words = " ".join(["predict", "--ckpt_path=best", "--data.images=photos", *QUIET])
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, words],
        env=environment(**changes),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr + done.stdout
    assert len(Path("predictions.csv").read_text(encoding="utf-8").splitlines()) == 31
