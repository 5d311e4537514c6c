"""Notices signals at once, even while the main thread waits outside Python.

signals of this process -> a thread that is told of each

Python runs handlers between two instructions of the main thread. While that thread waits in C, such
as for other processes at a rendezvous, no handler runs. The C part of the signal machinery still
writes each number into the file descriptor of ``signal.set_wakeup_fd``, which a thread reads here.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_sockets: list[socket.socket] = []  # the sockets that signal numbers are written to


@contextmanager
def watching_signals(tell: Callable[[int], None]) -> Iterator[None]:
    """Within it, call ``tell`` in a thread with the number of each signal that has a handler.

    Only the main thread may enter and leave it.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)  # as set_wakeup_fd demands: a full buffer must not block a signal
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
    """Stop writing in a forked process: it shares the socket, so its parent would be told."""
    if _sockets:
        with suppress(ValueError):  # not in the main thread
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
