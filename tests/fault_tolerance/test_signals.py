"""How long processes wait for each other, and what they agree on in each step."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from vitlit.fault_tolerance import signals
from vitlit.fault_tolerance.signals import Stopping
from vitlit.training.checkpoint_callbacks import LastCheckpoint

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
