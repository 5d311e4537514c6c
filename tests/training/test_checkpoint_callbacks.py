"""What Lightning's callbacks lack: ties, and names that are free."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.trainer.states import TrainerFn

from vitlit.errors import InputError
from vitlit.training.checkpoint_callbacks import (
    BestCheckpoint,
    LastCheckpoint,
    SaveSettings,
    is_within_step,
)
from vitlit.weights.checkpoint import TRAINING


@pytest.mark.parametrize(("score", "kept"), [(0.6, True), (0.5, True), (0.4, False)])
def test_of_equal_scores_the_later_one_is_best(score: float, kept: bool) -> None:
    callback = BestCheckpoint()
    callback.best_model_score = torch.tensor(0.5)
    callback.best_k_models = {"best.ckpt": torch.tensor(0.5)}
    callback.kth_best_model_path = "best.ckpt"
    trainer = Reducing()
    assert callback.check_monitor_top_k(trainer, torch.tensor(score)) is kept  # type: ignore[arg-type]


SCORE = torch.tensor(0.9)


@pytest.mark.parametrize(
    ("changes", "is_restored"),
    [
        ({}, True),
        ({"dirpath": "/moved/second/checkpoints"}, False),
        ({"monitor": "val/loss"}, False),
        ({"best_model_score": "0.9"}, False),
    ],
    ids=str,
)
def test_the_score_to_beat_is_restored_in_its_own_run_alone(
    changes: dict[str, str], is_restored: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "first" / "checkpoints"
    state = {"dirpath": "/moved/first/checkpoints", "monitor": "val/acc", "best_model_score": SCORE}
    callback = BestCheckpoint(folder)
    callback.load_state_dict({**state, **changes})
    assert (callback.best_model_score is SCORE) is is_restored
    assert callback.best_model_path == (str(folder / "best.ckpt") if is_restored else "")


class Reducing:
    """The part of a trainer that a checkpoint callback asks for its opinion."""

    class strategy:  # noqa: N801
        """Stands for Lightning's."""

        @staticmethod
        def reduce_boolean_decision(decision: bool) -> bool:
            return bool(decision)


class Worsening(BoringModel):
    """A model whose validation accuracy falls from epoch to epoch."""

    def on_validation_epoch_end(self) -> None:
        self.log("val/acc", 1.0 - self.current_epoch / 10)


QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
QUIET |= {"enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0}
QUIET |= {"limit_train_batches": 1, "limit_val_batches": 1}


def test_best_keeps_the_best_epoch_and_last_the_last(tmp_path: Path) -> None:
    callbacks: Any = [BestCheckpoint(), LastCheckpoint()]
    trainer = pl.Trainer(default_root_dir=tmp_path, max_epochs=3, callbacks=callbacks, **QUIET)
    trainer.fit(Worsening())
    files = {path.name: torch.load(path) for path in tmp_path.glob("checkpoints/*")}
    assert {name: content["epoch"] for name, content in files.items()} == {
        "best.ckpt": 0,
        "last.ckpt": 2,
    }


def at_batch(done: int, *, last: bool = False, **changes: Any) -> Any:
    """The part of a trainer that tells how many batches of an epoch are done: 10 make one."""
    current = SimpleNamespace(ready=done)
    progress = SimpleNamespace(current=current, is_last_batch=last)
    epochs = SimpleNamespace(current=SimpleNamespace(processed=1))
    loop = SimpleNamespace(
        epoch_loop=SimpleNamespace(batch_progress=progress), epoch_progress=epochs
    )
    strategy = SimpleNamespace(handles_gradient_accumulation=False, broadcast=lambda x: x)
    usual = {"fit_loop": loop, "strategy": strategy, "accumulate_grad_batches": 4}
    usual |= {"max_epochs": 3, "max_steps": -1, "should_stop": False}
    usual |= {"num_training_batches": 10, "sanity_checking": False, "world_size": 1}
    usual |= {"state": SimpleNamespace(fn=TrainerFn.FITTING), "global_step": done // 4}
    return SimpleNamespace(**usual | changes)


@pytest.mark.parametrize(
    ("done", "last", "is_within"),
    [
        (4, False, False),
        (5, False, True),
        (7, False, True),
        (8, False, False),
        (9, True, False),
        (10, False, False),
    ],
)
def test_gradients_are_gathered_between_complete_steps(
    done: int, last: bool, is_within: bool
) -> None:
    assert is_within_step(at_batch(done, last=last)) is is_within


def test_a_strategy_that_accumulates_itself_ends_no_step_at_the_end_of_an_epoch() -> None:
    trainer = at_batch(10)
    trainer.strategy.handles_gradient_accumulation = True
    assert is_within_step(trainer)
    assert not is_within_step(at_batch(8, strategy=trainer.strategy))


class Saves(LastCheckpoint):
    """Counts how often it would save."""

    count = 0

    def save(self, trainer: pl.Trainer) -> None:
        self.count += 1


@pytest.mark.parametrize(
    ("trainer", "count"),
    [
        (at_batch(8), 1),
        (at_batch(10), 0),  # the end of the epoch saves in a moment
        (at_batch(5), 0),  # the gradients so far would be lost
        (at_batch(8, sanity_checking=True), 0),
        (at_batch(8, state=SimpleNamespace(fn=TrainerFn.VALIDATING)), 0),
    ],
)
def test_a_validation_within_an_epoch_is_followed_by_a_save(trainer: Any, count: int) -> None:
    callback = Saves(every_minutes=0)
    callback.on_validation_end(trainer, None)
    assert callback.count == count


@pytest.mark.parametrize(
    ("changes", "count"), [({}, 1), ({"state": SimpleNamespace(fn=TrainerFn.VALIDATING)}, 0)]
)
def test_an_epoch_of_a_training_ends_with_a_save(changes: Any, count: int) -> None:
    callback = Saves(every_minutes=0)
    callback.on_train_epoch_end(at_batch(10, **changes), None)
    assert callback.count == count


@pytest.mark.parametrize(
    ("every", "done", "count"), [(2, 8, 1), (2, 4, 0), (3, 8, 0), (1, 4, 1), (1, 5, 0), (0, 8, 0)]
)
def test_a_save_is_due_every_so_many_steps(every: int, done: int, count: int) -> None:
    callback = Saves(every_n_steps=every, every_minutes=0)
    callback.on_train_batch_end(at_batch(done), None, None, None, done - 1)
    assert callback.count == count


@pytest.mark.parametrize("name", ["every_n_steps", "every_minutes"])
def test_no_save_comes_before_the_one_before(name: str) -> None:
    LastCheckpoint(**{name: 0})
    with pytest.raises(InputError, match=f"{name} -1 is too small"):
        LastCheckpoint(**{name: -1})


def test_settings_are_kept_if_they_are_plain() -> None:
    settings = {"trainer.max_epochs": 3, "ema.decay": 0.5, "trainer.precision": object(), "run": 1}
    callback, content = SaveSettings(settings), dict[str, Any]()
    callback.on_save_checkpoint(None, None, content)
    kept = content[TRAINING]
    assert {name: value for name, value in kept.items() if value is not None} == {
        "trainer.max_epochs": 3,
        "ema.decay": 0.5,
    }
    assert "trainer.precision" not in kept
    assert kept["seed_everything"] is None


def test_nothing_is_saved_within_an_epoch_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = Saves(every_minutes=0)
    monkeypatch.setattr("vitlit.training.checkpoint_callbacks.time.monotonic", lambda: 1e9)
    for step in range(1, 12):
        callback.on_train_batch_end(at_batch(8, global_step=step), None, None, None, 7)
    assert callback.count == 0


class Clock:
    """Time that passes in training steps alone, and while saving."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: float, save: float) -> None:
        self.now, self.step, self.save = 100.0, step, save
        self.saved: list[int] = []  # the optimiser steps in the files
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def train(self, checkpoint: LastCheckpoint, *callbacks: pl.Callback, **settings: Any) -> None:
        clock = self

        class Timed(pl.Callback):
            def on_train_batch_start(self, *_: Any) -> None:
                clock.now += clock.step

            def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
                clock.now += clock.save
                clock.saved.append(checkpoint["global_step"])

        callbacks = (Timed(), *callbacks, checkpoint)
        pl.Trainer(callbacks=list(callbacks), **(QUIET | settings)).fit(Worsening())


@pytest.mark.parametrize(
    ("minutes", "step", "save", "saved"),
    [
        (1.0, 10.0, 0.0, [1, 7, 13, 14]),  # seconds of a step: the first epoch, then each minute
        (0.5, 10.0, 0.0, [1, 4, 7, 10, 13, 14]),
        (1.0, 100.0, 0.0, [*range(1, 15), 14]),  # each long step, and after the last validation
        (1.0, 10.0, 5.0, [1, 11, 14]),  # 100 seconds, of which saving takes a twentieth
        (0.0, 10.0, 5.0, [*range(1, 15)]),
    ],
)
def test_last_is_saved_by_the_clock_and_at_the_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float,
    step: float,
    save: float,
    saved: list[int],
) -> None:
    clock = Clock(monkeypatch, step, save)
    clock.train(LastCheckpoint(tmp_path, every_minutes=minutes), max_epochs=14)
    assert clock.saved == saved


def test_last_is_saved_within_a_long_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 10.0, 0.0)
    settings = {"max_epochs": 1, "limit_train_batches": 14, "accumulate_grad_batches": 2}
    clock.train(LastCheckpoint(tmp_path), **settings)
    assert clock.saved == [3, 6, 7]  # of two batches each


class Ask(pl.Callback):
    """Asks for the end of the training at its second validation, as early stopping does."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.global_step >= 2


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        ({"max_epochs": 3}, 3),
        ({"max_epochs": -1, "max_steps": 5, "limit_train_batches": 3}, 5),
        ({"max_epochs": 9, "callbacks": Ask()}, 2),
        ({"max_epochs": 9, "callbacks": Timer({"seconds": 2.5}, interval="epoch")}, 3),
    ],
    ids=["epochs", "steps", "asked to stop", "time"],
)
def test_the_end_of_a_training_is_saved_whatever_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], end: int
) -> None:
    clock = Clock(monkeypatch, 1.0, 0.0)
    more = [settings.pop("callbacks")] if "callbacks" in settings else []
    clock.train(LastCheckpoint(tmp_path), *more, **settings)
    assert clock.saved[-1] == end
    assert len(clock.saved) == 2  # the first epoch and the last
