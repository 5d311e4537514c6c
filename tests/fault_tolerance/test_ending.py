"""Signals whose exception Python drops, since it is raised where none can leave."""

import os
import signal
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest

from vitlit.errors import Stopped
from vitlit.fault_tolerance.ending import ending_at_signals
from vitlit.fault_tolerance.signals import Stopping

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.name == "nt", reason="Windows has other signals"),
]


def get_signal() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.001)  # its handler has run by now


class Closing:
    def __del__(self) -> None:
        get_signal()


def in_del() -> None:
    closing = Closing()
    del closing


def in_callback_of_a_reference() -> None:
    gone = type("Gone", (), {})()
    reference = weakref.ref(gone, lambda _: get_signal())
    del gone
    assert reference() is None


def listen_as_fit() -> AbstractContextManager[None]:
    return Stopping(timedelta(minutes=1)).listening()  # one for each test: it keeps its signal


@pytest.mark.parametrize("lose", [in_del, in_callback_of_a_reference])
@pytest.mark.parametrize("listen", [ending_at_signals, listen_as_fit])
def test_a_signal_that_comes_where_no_exception_can_leave_still_ends_the_command(
    listen: Callable[[], AbstractContextManager[None]], lose: Callable[[], None]
) -> None:
    def work() -> None:
        with listen():
            for _ in range(2):  # the signal that is sent again may be lost as well
                lose()
            time.sleep(5)

    with pytest.raises(Stopped) as caught:
        work()
    assert caught.value.status == 143


def test_a_lost_signal_is_not_sent_again_after_the_command() -> None:
    with ending_at_signals():
        in_del()
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("was sent again"))
    try:
        time.sleep(0.2)
    finally:
        signal.signal(signal.SIGTERM, before)
