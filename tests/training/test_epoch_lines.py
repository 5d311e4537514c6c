"""The line of an epoch: its numbers, the time left, and the mark of the best."""

import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import pytorch_lightning as pl

from vitlit.training.epoch_lines import EpochLines, Pace, time_left
from vitlit.training.progress_bar import planned_epochs


def row(epoch: int, **changes: float) -> dict[str, float]:
    usual = {"epoch": epoch, "step": 20.0 * (epoch + 1), "seconds": 4.0, "lr": 1e-3}
    return {**usual, "train/loss_epoch": 2.3, "train/acc": 0.1, **changes}


def trainer(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> pl.Trainer:
    made = pl.Trainer(accelerator="cpu", logger=False, **settings)
    monkeypatch.setattr(pl.Trainer, "num_training_batches", 20)
    return made


@pytest.mark.parametrize(
    ("settings", "planned"),
    [
        ({"max_epochs": 7}, 7),
        ({"max_epochs": -1, "max_steps": 41}, 3),
        ({"max_epochs": 2, "max_steps": 41}, 2),
        ({"max_epochs": -1, "max_steps": 41, "accumulate_grad_batches": 3}, 6),  # 7 updates each
        ({"max_time": timedelta(hours=1)}, None),
    ],
)
def test_the_number_of_epochs_follows_from_the_limits(
    settings: dict[str, Any], planned: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planned_epochs(trainer(monkeypatch, **settings)) == planned


def test_a_line_has_all_numbers_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, made = EpochLines(), trainer(monkeypatch, max_epochs=1000)
    scores = {"val/loss": 2.26, "val/acc": 0.105, "best": 1.0}
    lines.epoch_done(made, [row(0, **scores)])
    lines.epoch_done(made, [row(0, **scores), row(1)])
    heading, first, second = capsys.readouterr().out.splitlines()
    assert " ".join(heading.split()) == "epoch train loss val loss val acc lr seconds time left"
    assert " ".join(first.split()) == "1/1000 2.3000 2.2600 0.1050 1.0e-03 4.0 1:06:36 best"
    assert " ".join(second.split()) == "2/1000 2.3000 - - 1.0e-03 4.0 1:06:32"
    assert max(map(len, (heading, first, second))) <= 80


def test_the_time_left_is_that_of_the_epochs_to_come_or_of_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [row(3, seconds=2.0), row(4, seconds=6.0)]
    assert time_left(trainer(monkeypatch, max_epochs=8), rows) == pytest.approx(3 * 4.0)
    limited = trainer(monkeypatch, max_epochs=8, max_time=timedelta(seconds=5))
    assert time_left(limited, rows) == pytest.approx(5, abs=1)
    limited.should_stop = True
    assert time_left(limited, rows) == 0


def test_the_score_of_the_monitor_has_a_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = EpochLines("val/balanced_acc")
    lines.epoch_done(trainer(monkeypatch, max_epochs=2), [row(0, **{"val/balanced_acc": 0.25})])
    heading, line = capsys.readouterr().out.splitlines()
    assert "balanced" in heading
    assert "0.2500" in line


def pace_of(made: pl.Trainer, monkeypatch: pytest.MonkeyPatch, each: float) -> Iterator[int]:
    """Train on the batches of one epoch, each that long; yields their numbers as they end."""
    pace, clock = Pace(), count(100.0, each)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    for batch in range(20):
        pace.on_train_batch_end(made, pl.LightningModule(), None, None, batch)
        yield batch


@pytest.mark.parametrize(
    ("settings", "rest"),
    [
        ({"max_epochs": 5}, ", all that is left 48:30"),  # 97 of 100 batches
        (
            {"max_epochs": -1, "max_steps": 8, "accumulate_grad_batches": 3},
            ", all that is left 12:00",
        ),
        ({"max_epochs": 5, "max_steps": 2}, ", all that is left 1:00"),
        ({"max_epochs": 5, "max_time": timedelta(minutes=3)}, ", all that is left 3:00"),
        ({"max_epochs": -1}, ""),
    ],
)
def test_the_pace_is_told_once_after_a_minute(
    settings: dict[str, Any],
    rest: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = trainer(monkeypatch, **settings)
    told = {}
    for batch in pace_of(made, monkeypatch, 30.0):
        if line := " ".join(capsys.readouterr().out.split()):
            told[batch] = line
    # 60 seconds after the first batch, which is not counted: the third; 20 batches are 10 minutes
    assert told == {2: f"pace an epoch takes about 10:00{rest}; validation not counted"}


def test_the_pace_is_not_told_shortly_before_the_line_of_the_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trainer(monkeypatch, max_epochs=5)
    assert len(list(pace_of(made, monkeypatch, 5.0))) == 20
    assert capsys.readouterr().out == ""
