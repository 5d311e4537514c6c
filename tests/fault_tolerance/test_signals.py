"""How long processes wait for each other before one counts as lost."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from vitlit.fault_tolerance.signals import Stopping

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
    trainer: Any = SimpleNamespace(world_size=2, is_global_zero=True)
    Stopping(MINUTES).on_train_start(trainer, None)  # type: ignore[arg-type]
    assert waits == {"exchange": MINUTES, "world": MINUTES + timedelta(seconds=more)}
