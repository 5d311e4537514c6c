"""The lock of a run: one process at a time writes its folder.

folder -> a lock, which ends with the process
"""

import os
import socket
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vitlit.errors import InputError
from vitlit.files import LOCK_FILE, run_name


class _FileLock:
    """A lock for systems without fcntl (Windows), closed like the file that fcntl locks."""

    def __init__(self, path: Path) -> None:
        self.lock = FileLock(path)
        self.lock.acquire(timeout=0)

    def close(self) -> None:
        self.lock.release()


def lock_folder(folder: Path) -> Any:
    """Lock a run's folder until the result is closed or the process ends, in whatever way.

    Raises InputError if another process holds the lock.

    fcntl's record locks belong to one process. Those of flock are inherited, so the loader workers
    of a killed process would keep the run locked for seconds.
    """
    path = folder / LOCK_FILE
    try:
        import fcntl
    except ImportError:
        try:
            return _FileLock(path)
        except Timeout as error:
            raise _run_in_use(folder, "") from error
    file = path.open("a+", encoding="utf-8")  # "w" would erase the holder's name before the lock
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        holder = file.read(200).strip()
        file.close()
        raise _run_in_use(folder, f", {holder}") from error
    file.truncate(0)
    file.write(f"process {os.getpid()} of {socket.gethostname()}\n")
    file.flush()
    return file


def _run_in_use(folder: Path, holder: str) -> InputError:
    return InputError(
        f"run {run_name(folder)} is being written by another process{holder}; wait for it, or give "
        f"the run another name",
        argument="run",
    )
