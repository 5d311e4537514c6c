"""The progress bar, and messages above it, on a screen made of letters."""

import logging
import sys
import warnings
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
from tqdm import tqdm

from vitlit.__main__ import main
from vitlit.training.progress_bar import Bar, messages_above, planned_epochs

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


def test_the_bar_is_drawn_twice_a_second_with_the_loss_of_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = screen_of(monkeypatch)
    clock = iter([10.0, 10.2, 10.4, 10.6, 10.7])
    monkeypatch.setattr("vitlit.training.progress_bar.time.monotonic", lambda: next(clock))
    trainer = pl.Trainer(accelerator="cpu", logger=False, accumulate_grad_batches=4, max_epochs=3)
    bar, drawn = Bar(), []
    monkeypatch.setattr(Bar, "total_train_batches", 5)
    for batch in range(5):
        before = len(screen.getvalue())
        bar.on_train_batch_end(trainer, None, {"loss": 0.25 * batch}, None, batch)
        drawn.append(len(screen.getvalue()) > before)
    assert drawn == [True, False, False, True, False]
    assert screen.getvalue().count("epoch 1/3") == 2  # once each time, the first time too
    assert "loss 3.000" in screen.getvalue()  # 4 times the share of 3 * 0.25
    assert "epoch 1/3" in screen.getvalue()
    bar.close()
    assert lines(screen)[-1] == ""  # nothing is left of it


@pytest.mark.parametrize("columns", [80, 120])
def test_the_bar_leaves_room_for_what_the_terminal_echoes(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = screen_of(monkeypatch)
    monkeypatch.setattr("vitlit.training.progress_bar.terminal_width", lambda _: columns)
    bar = Bar()
    bar.draw("epoch 1/3", 2, 20, "loss 2.303")
    bar.draw("epoch 1/3", 4, 20, "loss 2.202")
    *_, first, second = screen.getvalue().split("\r")
    bar.close()
    assert len(first.rstrip()) == len(second.rstrip()) == columns - len("^C") - 1
    assert lines(screen)[-1] == ""


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


@pytest.mark.parametrize("columns", [80, 120])
def test_in_a_terminal_the_lines_of_the_epochs_stay_and_the_bar_fits(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    screen = screen_of(monkeypatch)
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("vitlit.training.progress_bar.REDRAW_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["fit", "--config", "digits.yaml", *SMALL]) == 0
    shown = lines(screen)
    assert [line.split()[0] for line in shown if line.startswith("  1/1")] == ["1/1"]
    assert not [line for line in shown if "%|" in line]
    drawn = screen.getvalue().replace("\n", "\r").split("\r")
    assert any("epoch 1/1 100%|" in part for part in drawn)
    assert max(len(part) for part in drawn if "%|" in part) <= columns


def test_an_error_has_a_line_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    screen = screen_of(monkeypatch)
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("vitlit.training.progress_bar.REDRAW_SECONDS", 0.0)
    assert main(["fit", "--config", "digits.yaml", *SMALL, "--model.lr=1e30"]) == 1
    assert [line[:7] for line in lines(screen) if "not finite" in line] == ["vitlit:"]


def limits(**changes: Any) -> Any:
    """The part of a trainer that tells how long it trains."""
    usual = {"max_epochs": None, "max_steps": -1, "accumulate_grad_batches": 1}
    return SimpleNamespace(**{**usual, "num_training_batches": 10, **changes})


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({}, None),
        ({"max_epochs": -1}, None),
        ({"max_epochs": 3}, 3),
        ({"max_steps": 1}, 1),
        ({"max_steps": 10}, 1),
        ({"max_steps": 11}, 2),
        ({"max_steps": 11, "max_epochs": 1}, 1),
        ({"max_steps": 20, "max_epochs": 9}, 2),
        ({"max_steps": 6, "accumulate_grad_batches": 4}, 2),  # 3 steps an epoch: 4, 4 and 2 batches
        ({"max_steps": 7, "accumulate_grad_batches": 4}, 3),
        ({"max_steps": 7, "num_training_batches": float("inf")}, None),
    ],
    ids=str,
)
def test_the_end_of_a_training_is_planned_from_its_limits(
    changes: dict[str, Any], epochs: int | None
) -> None:
    assert planned_epochs(limits(**changes)) == epochs


def test_each_part_of_a_command_has_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    monkeypatch.setattr("vitlit.training.progress_bar.REDRAW_SECONDS", 0.0)
    bar = Bar()
    trainer = limits(sanity_checking=False, num_val_batches=[3], num_test_batches=[4])
    trainer.num_predict_batches = [float("inf")]
    for hook, shown in (
        (bar.on_validation_batch_end, "validating  67%"),
        (bar.on_test_batch_end, "testing  50%"),
        (bar.on_predict_batch_end, "2/?"),
    ):
        before = len(screen.getvalue())
        hook(trainer, None, None, None, 1)
        assert shown in screen.getvalue()[before:]
    bar.close()
    assert lines(screen)[-1] == ""


def test_a_bar_that_is_switched_off_or_only_checks_draws_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = screen_of(monkeypatch)
    monkeypatch.setattr("vitlit.training.progress_bar.REDRAW_SECONDS", 0.0)
    bar, trainer = Bar(), limits(sanity_checking=True, num_val_batches=[3], num_test_batches=[4])
    bar.on_validation_batch_end(trainer, None, None, None, 0)
    bar.disable()
    bar.on_test_batch_end(trainer, None, None, None, 0)
    assert screen.getvalue() == ""
    bar.enable()
    bar.on_test_batch_end(trainer, None, None, None, 0)
    assert "testing" in screen.getvalue()
    bar.close()


@pytest.mark.parametrize("hook", ["train", "validation", "test", "predict"])
def test_a_bar_is_gone_when_its_part_is_done(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    bar = Bar()
    bar.draw("working", 1, 2)
    assert "working" in lines(screen)[-1]
    getattr(bar, f"on_{hook}_end")(None, None)
    assert lines(screen)[-1] == ""


@pytest.mark.parametrize("is_first", [True, False])
def test_what_takes_no_time_has_no_bar(is_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    clock = iter([10.0, 10.4 if is_first else 10.5])
    monkeypatch.setattr("vitlit.training.progress_bar.time.monotonic", lambda: next(clock))
    bar = Bar()
    bar.setup(limits(is_global_zero=True), None, "test")
    bar.on_test_batch_end(limits(num_test_batches=[4]), None, None, None, 0)
    bar.on_exception(None, None, RuntimeError())
    assert ("testing" in screen.getvalue()) is not is_first
