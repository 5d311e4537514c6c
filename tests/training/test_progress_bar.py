"""The progress bar, and messages above it, on a screen made of letters."""

import logging
import sys
import warnings
from io import StringIO
from pathlib import Path

import pytest
from tqdm import tqdm

from vitlit.__main__ import main
from vitlit.training.progress_bar import Bar, messages_above

SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2"]
SMALL += ["--trainer.max_epochs=1", "--trainer.enable_model_summary=false"]


def screen_of(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """Where both streams, warnings and Lightning's log go, as on a terminal.

    No fixture: pytest sets the streams anew before a test's body.
    """
    found = StringIO()
    monkeypatch.setattr(sys, "stdout", found)
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: print(message, file=found))
    logger = logging.getLogger("pytorch_lightning")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(found)])
    return found


def lines(screen: StringIO) -> list[str]:
    """What is left on each line: a carriage return goes back to its first letter."""
    shown = []
    for line in screen.getvalue().replace("\x1b[A", "").split("\n"):
        left = ""
        for part in line.split("\r"):
            left = part + left[len(part) :]
        shown.append(left.rstrip())
    return shown


def test_the_bar_is_drawn_twice_a_second_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([10.0, 10.2, 10.4, 10.6, 10.7])
    monkeypatch.setattr("vitlit.training.progress_bar.time.monotonic", lambda: next(clock))
    bar = Bar()
    bar.train_progress_bar = screen = tqdm(total=5, file=StringIO())
    monkeypatch.setattr(bar, "get_metrics", lambda *_: {})
    drawn = []
    for batch in range(5):
        before = screen.n
        bar.on_train_batch_end(None, None, None, None, batch)
        drawn.append(screen.n > before)
    assert drawn == [True, False, False, True, True]
    assert screen.n == 5


def test_log_lines_and_warnings_come_above_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    with messages_above(), tqdm(total=3, desc="steps", file=screen, ncols=40) as bar:
        bar.update()
        logging.getLogger("pytorch_lightning").warning("a log line")
        warnings.showwarning("a warning", UserWarning, "file.py", 7)
        bar.update(2)
    shown = lines(screen)
    assert shown[:2] == ["a log line", "a warning"]
    assert shown[2].startswith("steps: 100%")


def test_handlers_and_warnings_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    screen_of(monkeypatch)
    logger, plain = logging.getLogger("pytorch_lightning"), warnings.showwarning
    handlers = logger.handlers
    with messages_above():
        assert logger.handlers is not handlers
        assert warnings.showwarning is not plain
    assert logger.handlers is handlers
    assert warnings.showwarning is plain


def test_lightnings_last_words_have_a_line_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    screen = screen_of(monkeypatch)
    assert main(["fit", "--config", "digits.yaml", *SMALL]) == 0
    assert "`Trainer.fit` stopped: `max_epochs=1` reached." in lines(screen)


def test_an_error_comes_below_the_bar_and_not_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    screen = screen_of(monkeypatch)
    assert main(["fit", "--config", "digits.yaml", *SMALL, "--model.lr=1e30"]) == 1
    assert [line[:7] for line in lines(screen) if "not finite" in line] == ["vitlit:"]
    assert [line[:7] for line in lines(screen) if "Epoch" in line] == ["Epoch 0"]
