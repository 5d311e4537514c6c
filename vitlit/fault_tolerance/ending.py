"""Signals that end a command which trains nothing; and which signals count, for all commands.

a signal -> Stopped, in the main thread
"""

import _thread
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vitlit.errors import Stopped

CAUGHT_SIGNALS = (signal.SIGINT, signal.SIGTERM) + (
    (signal.SIGUSR1, signal.SIGHUP) if hasattr(signal, "SIGUSR1") else ()  # Windows has neither
)
# Within this time a further signal is the same request: SLURM and torchrun both pass signals on.
SAME_WISH_SECONDS = 1.0
# After which a signal is sent again that came during a __del__, which should be done by then.
AGAIN_SECONDS = 0.05
UNFINISHED = "before it was done; no unfinished files are left"


@contextmanager
def handling_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Within it, the handler gets the signals that ask a command to end. In the main thread only.

    SIGHUP stays ignored if it is: by nohup, for a command that outlives its terminal.
    """
    before: dict[int, Any] = {}
    for signum in CAUGHT_SIGNALS:
        is_hangup = signum == getattr(signal, "SIGHUP", None)
        if not (is_hangup and signal.getsignal(signum) == signal.SIG_IGN):
            before[signum] = signal.signal(signum, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def sending_lost_again(forget: Callable[[], None]) -> Iterator[None]:
    """Within it, send a signal again if the Stopped that its handler raised was lost.

    Python prints and drops an exception that is raised within a ``__del__``, a callback of a
    weak reference or one from C. ``forget`` is called first: it makes the handler raise once more.
    """
    before, is_over, lock = sys.unraisablehook, threading.Event(), threading.Lock()

    def send(signum: int) -> None:
        is_over.wait(AGAIN_SECONDS)
        with lock:  # it may have ended since, and the handlers with it
            if not is_over.is_set():
                os.kill(os.getpid(), signum)

    def take(lost: Any) -> None:
        if not isinstance(lost.exc_value, Stopped):
            before(lost)
            return
        forget()
        # not threading.Thread: starting one takes locks, which the interrupted code may hold
        _thread.start_new_thread(send, (lost.exc_value.signum,))

    sys.unraisablehook = take
    try:
        yield
    finally:
        sys.unraisablehook = before
        with lock:
            is_over.set()


@contextmanager
def ending_at_signals() -> Iterator[None]:
    """For a command that trains nothing: a signal raises Stopped, a later one ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may have handlers
        return
    own, came = os.getpid(), math.inf

    def end(signum: int, frame: Any) -> None:
        nonlocal came
        now, is_first = time.monotonic(), came == math.inf
        came = min(now, came)
        if os.getpid() != own:  # a forked loader: its parent ends it, or else the second signal
            if not is_first:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
        elif is_first:
            raise Stopped(signum, UNFINISHED)
        elif now - came > SAME_WISH_SECONDS:
            print_now(f"ended by another {signal.Signals(signum).name}")
            os._exit(128 + signum)

    def forget() -> None:
        nonlocal came
        came = math.inf

    with handling_signals(end), sending_lost_again(forget):
        yield


def print_now(text: str) -> None:
    """Write a line below the bar. ``print`` may not be called in handlers: its lock may be held."""
    with suppress(OSError):  # the terminal may be gone, as SIGHUP says
        os.write(2, f"\nvitlit: {text}\n".encode())
