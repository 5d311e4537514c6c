"""One process at a time prepares a published data set, on all machines that share its folder.

folder, data set -> .NAME.lock in the folder, while it is downloaded or unpacked
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from vitlit.files import acquire_aloud

QUIET_SECONDS = 3.0  # as long as it takes to see that all is there; a longer wait is announced


@contextmanager
def preparing(dataset: str, data_dir: Path) -> Iterator[None]:
    """Wait until no other process prepares the set in ``data_dir``, and keep others from it.

    An error leaves neither the lock's file nor the folder, if that is new and empty. Without a lock
    where none can be made: nothing is prepared either in a folder that cannot be written.
    """
    is_new = not data_dir.exists()
    lock = FileLock(data_dir / f".{dataset}.lock")
    with suppress(OSError, NotImplementedError):  # the latter where the system has no such locks
        data_dir.mkdir(parents=True, exist_ok=True)
        acquire_aloud(lock, f"preparing {dataset} in {data_dir}", QUIET_SECONDS)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if lock.is_locked:  # who waits for a file that is gone takes a new one: filelock looks
                Path(lock.lock_file).unlink()
            if is_new:
                data_dir.rmdir()
        raise
    finally:
        lock.release()
