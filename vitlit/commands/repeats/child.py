"""One command of this program in a process of its own, which gets the signals that come here.

words -> exit status, or minus the number of the signal that ended it

A process of its own: each training finds the program as if it were the only one, and if one is
killed for memory, the others are still there.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from vitlit.fault_tolerance.ending import handling_signals
from vitlit.files import SERIES_VARIABLE

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends


def run_words(words: Sequence[str], way_on: str, *, quiet: bool = False) -> int:
    """Run ``vitlit WORDS`` and return how it ended.

    way_on: the command that continues the series; quiet: whether its last lines are dropped.
    """
    child = subprocess.Popen(
        [*_program(), *words],
        env={**os.environ, SERIES_VARIABLE: way_on},
        stdout=subprocess.DEVNULL if quiet else None,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )

    def pass_on(signum: int, frame: Any) -> None:
        # From a terminal it has come to the child as well: two within a second are one request.
        child.send_signal(signum)

    is_main = threading.current_thread() is threading.main_thread()  # only it may have handlers
    with handling_signals(pass_on) if is_main else nullcontext():
        return child.wait()


def _program() -> list[str]:
    """How this program was started, without its words."""
    own = Path(sys.argv[0])
    if own.suffix == ".exe" and own.stem == "vitlit":
        return [str(own)]
    return [sys.executable, str(own)] if own.name == "vitlit" else [sys.executable, "-m", "vitlit"]


def _end_with_parent() -> None:
    """In the child: stop, as if asked to, when the parent is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
