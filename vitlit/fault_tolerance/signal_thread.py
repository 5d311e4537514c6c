"""Signals seen at once, even while the main thread waits outside Python.

signals of this process -> a thread that is told of each

Python runs handlers between two instructions of the main thread. One that waits in C, such as for
other processes to come to a rendezvous, runs none until the wait is over.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_sockets: list[socket.socket] = []  # those that signals are written to


@contextmanager
def watching_signals(tell: Callable[[int], None]) -> Iterator[None]:
    """Within it, call ``tell`` in a thread with the number of each signal that has a handler.

    To be entered and left by the main thread.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    _sockets.append(writer)
    thread = threading.Thread(
        target=_hear_signals, args=(reader, tell), daemon=True, name="signals"
    )
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        _sockets.remove(writer)
        reader.shutdown(socket.SHUT_RDWR)  # ends the thread
        thread.join()
        reader.close()
        writer.close()


def _hear_signals(reader: socket.socket, tell: Callable[[int], None]) -> None:
    while numbers := reader.recv(64):
        for number in numbers:
            tell(number)


def _leave_to_parent() -> None:
    """A forked process has the same socket: what it is sent would be taken for its parent's."""
    if _sockets:
        with suppress(ValueError):  # not in the main thread
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
