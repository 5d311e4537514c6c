"""How long processes wait for each other, what they agree on, and signals after the last step."""

import os
import signal
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from trainings import RUN, newest_run

from vitlit.__main__ import main
from vitlit.fault_tolerance import signals
from vitlit.fault_tolerance.signals import Stopping
from vitlit.training.checkpoint_callbacks import LastCheckpoint
from vitlit.training.classifier import Classifier

MINUTES = timedelta(minutes=5)


@pytest.mark.parametrize(("backend", "more"), [("gloo", 0), ("nccl", 60)])
def test_our_own_exchange_fails_before_the_watchdog_of_nccl_aborts(
    backend: str, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: dict[str, timedelta] = {}

    def new_group(backend: str, timeout: timedelta) -> None:
        waits["exchange"] = timeout

    world = SimpleNamespace(set_timeout=lambda timeout: waits.update(world=timeout))
    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    monkeypatch.setattr(dist, "new_group", new_group)
    monkeypatch.setattr(dist, "set_timeout", world.set_timeout, raising=False)
    trainer: Any = SimpleNamespace(world_size=2, is_global_zero=True, checkpoint_callbacks=[])
    Stopping(MINUTES).on_train_start(trainer, None)  # type: ignore[arg-type]
    assert waits == {"exchange": MINUTES, "world": MINUTES + timedelta(seconds=more)}


class Last(LastCheckpoint):
    """Notes its saves; whether one is due is set."""

    def __init__(self, is_due: bool) -> None:
        super().__init__()
        self.is_due, self.saved = is_due, 0

    def is_late(self) -> bool:
        return self.is_due

    def save(self, trainer: Any) -> None:
        self.saved += 1


@pytest.mark.parametrize(("due", "saved"), [((True, False), 1), ((False, True), 0)])
def test_the_clock_of_the_first_process_decides_when_all_save(
    due: tuple[bool, bool], saved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Tensor] = []

    def all_reduce(values: Tensor, **_: Any) -> Any:
        sent.append(values)
        return SimpleNamespace(wait=lambda: values.copy_(torch.stack(sent).amax(0)))

    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(dist, "new_group", lambda **_: None)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(signals, "set_timeout", lambda _: None)
    monkeypatch.setattr(signals, "is_within_step", lambda _: False)
    processes = []
    for rank, is_due in enumerate(due):
        last = Last(is_due)
        # no strategy, by which it could ask the others in any other way
        trainer: Any = SimpleNamespace(
            world_size=2, is_global_zero=rank == 0, checkpoint_callbacks=[last], global_step=7
        )
        stopping = Stopping(MINUTES)
        stopping.on_train_start(trainer, None)  # type: ignore[arg-type]
        processes.append((stopping, trainer, last))
    for stopping, trainer, _ in processes:
        stopping.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
    for stopping, trainer, last in processes:
        stopping.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]
        last.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]
    assert [last.saved for *_, last in processes] == [saved] * 2


@pytest.mark.parametrize("hook", ["on_train_end", "on_fit_end"])  # last.ckpt is saved in between
def test_a_signal_after_the_last_step_lets_the_training_end(
    hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = getattr(Classifier, hook)

    def hear(self: Classifier) -> None:
        signal.raise_signal(signal.SIGTERM)
        before(self)

    monkeypatch.setattr(Classifier, hook, hear)
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, "--trainer.max_epochs=1"]) == 0
    assert "SIGTERM: the training is over and ends in a moment" in capfd.readouterr().err
    assert (newest_run() / "finished").exists()
    assert (newest_run() / "checkpoints" / "last.ckpt").exists()


def test_a_second_signal_after_the_last_step_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ended = [100.0], []
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(os, "_exit", ended.append)
    trainer: Any = SimpleNamespace(world_size=1, is_global_zero=True, checkpoint_callbacks=[])
    stopping = Stopping(MINUTES)
    stopping.on_train_start(trainer, None)  # type: ignore[arg-type]
    stopping.on_train_end(trainer, None)  # type: ignore[arg-type]
    with stopping.listening():
        signal.raise_signal(signal.SIGTERM)
        now[0] += 0.5  # the same wish once more
        signal.raise_signal(signal.SIGTERM)
        assert not ended
        now[0] += 1.0
        signal.raise_signal(signal.SIGTERM)
    assert ended == [143]
