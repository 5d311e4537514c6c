"""Signals seen at once, whatever the main thread does."""

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Iterator

import pytest

from vitlit.fault_tolerance.signal_thread import watching_signals

SIGNAL = getattr(signal, "SIGUSR2", signal.SIGTERM)


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Any: signals without one are not told of."""
    before = signal.signal(SIGNAL, lambda *_: None)
    yield
    signal.signal(SIGNAL, before)


def test_each_signal_is_told() -> None:
    told: queue.Queue[int] = queue.Queue()
    with watching_signals(told.put):
        for _ in range(3):
            os.kill(os.getpid(), SIGNAL)
            assert told.get(timeout=30) == SIGNAL


def test_nothing_is_told_afterwards_and_what_was_there_is_back() -> None:
    told: queue.Queue[int] = queue.Queue()
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with watching_signals(told.put):
        pass
    assert signal.set_wakeup_fd(before) == before
    os.kill(os.getpid(), SIGNAL)
    with pytest.raises(queue.Empty):
        told.get(timeout=0.2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_what_a_forked_child_is_sent_is_not_told_to_its_parent() -> None:
    told: queue.Queue[int] = queue.Queue()
    with watching_signals(told.put):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(0.2)
        assert child.pid is not None
        os.kill(child.pid, SIGNAL)
        with pytest.raises(queue.Empty):
            told.get(timeout=0.5)
        child.kill()
        child.join()
