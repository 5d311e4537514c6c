"""What Lightning's callbacks lack: ties, and names that are free."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
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


def test_best_keeps_the_best_epoch_and_last_the_last(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=3,
        limit_train_batches=1,
        limit_val_batches=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[BestCheckpoint(), LastCheckpoint()],
    )
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
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    strategy = SimpleNamespace(handles_gradient_accumulation=False, broadcast=lambda x: x)
    usual = {"fit_loop": loop, "strategy": strategy, "accumulate_grad_batches": 4}
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
    callback = Saves()
    callback.on_validation_end(trainer, None)
    assert callback.count == count


@pytest.mark.parametrize(
    ("changes", "count"), [({}, 1), ({"state": SimpleNamespace(fn=TrainerFn.VALIDATING)}, 0)]
)
def test_an_epoch_of_a_training_ends_with_a_save(changes: Any, count: int) -> None:
    callback = Saves()
    callback.on_train_epoch_end(at_batch(10, **changes), None)
    assert callback.count == count


@pytest.mark.parametrize(
    ("every", "done", "count"), [(2, 8, 1), (2, 4, 0), (3, 8, 0), (1, 4, 1), (1, 5, 0), (0, 8, 0)]
)
def test_a_save_is_due_every_so_many_steps(every: int, done: int, count: int) -> None:
    callback = Saves(every_n_steps=every)
    callback.on_train_batch_end(at_batch(done), None, None, None, done - 1)
    assert callback.count == count


@pytest.mark.parametrize(
    ("seconds", "world", "step", "count"),
    [(89, 1, 7, 0), (90, 1, 7, 1), (90, 2, 7, 0), (90, 2, 10, 1), (89, 2, 10, 0)],
)
def test_a_save_is_due_every_so_many_minutes(
    seconds: int, world: int, step: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("vitlit.training.checkpoint_callbacks.time.monotonic", lambda: now[0])
    callback = Saves(every_minutes=1.5)
    now[0] += seconds
    trainer = at_batch(8, world_size=world, global_step=step)
    callback.on_train_batch_end(trainer, None, None, None, 7)
    assert callback.count == count


def test_other_processes_are_asked_whether_a_save_is_due() -> None:
    callback = Saves(every_minutes=1e-9)
    trainer = at_batch(8)
    trainer.strategy.broadcast = lambda is_late: False  # the clock of the first process
    callback.on_train_batch_end(trainer, None, None, None, 7)
    assert callback.count == 0


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
    callback = Saves()
    monkeypatch.setattr("vitlit.training.checkpoint_callbacks.time.monotonic", lambda: 1e9)
    for step in range(1, 12):
        callback.on_train_batch_end(at_batch(8, global_step=step), None, None, None, 7)
    assert callback.count == 0
