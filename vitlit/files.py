"""Files and folders that commands write: whole files, and nothing over what is there."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vitlit.errors import InputError, say

if TYPE_CHECKING:
    from filelock import BaseFileLock

RUNS_FOLDER = "lightning_logs"  # in the current folder: where `best` and `last` are looked for
# in the folder of a run
CHECKPOINTS_FOLDER = "checkpoints"
BEST_FILE = "best.ckpt"
LAST_FILE = "last.ckpt"  # the only checkpoint of which the one before is kept
HISTORY_FILE = "history.csv"  # a row for each epoch
FINISHED_FILE, LOCK_FILE = "finished", ".lock"
DEBUG_FILE = "debug"  # marks one that only tried whether everything runs
PROBE_FILE = "probe"  # marks one that no training made, but probe --save
COMMAND_FILE = "command"  # holds the words that start or continue it
# of several trainings of one command, in the folder that holds those of the runs
SERIES_FILE, SUMMARY_FILE = "series.json", "summary.csv"
SERIES_VARIABLE = "VITLIT_SERIES"  # tells a training the command that goes on with all of them
SUMMARY_PICTURE = "summary.png"  # what a training came to, on one picture
REPORT_FOLDER, METRICS_FILE = "test_report", "metrics.json"  # of test
# The files that tell a folder of a command's output from the user's own, wherever it was moved and
# whatever its name is: those of one row.
OUTPUT_FILES = (
    # The first of each row is rare, so most folders cost one look for each.
    ("checkpoints/last.ckpt",),  # fit
    ("checkpoints/best.ckpt",),
    ("config.yaml", "history.csv"),
    ("metrics.json", "mistakes.csv"),  # test
    ("metrics.json", "predictions.csv"),  # test, of numbers
    ("metrics.json", "nearest.png"),  # probe
    ("nearest.csv", "nearest.png"),
    ("scores.csv", "maps.npy"),  # anomaly
    ("index.html", "arrays.npz"),  # explain
    ("inspection.json", "index.html"),  # inspect
    ("model.safetensors", "config.json"),  # export
    ("model.onnx",),
    ("model.pt2",),
)
# numbers of the errors of a disk that is full, over its quota, broken or not to be written to
WRITE_FAULTS = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS) + (
    (errno.EDQUOT,) if hasattr(errno, "EDQUOT") else ()  # Windows has none
)
FULL_BYTES = 1 << 20  # a disk with less room is full


def run_name(run: Path) -> str:
    """The name of a run; of one of a series, with that of the series: ``cv/fold1``."""
    is_part = re.fullmatch(r"(fold|repeat)\d+", run.name)
    return f"{run.parent.name}/{run.name}" if is_part else run.name


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Within it, an error of writing becomes an InputError that says ``path`` cannot be written."""
    try:
        yield
    except Exception as error:
        reason = None if isinstance(error, InputError) else _write_fault(error, path.parent)
        if reason is None:
            raise
        raise InputError(
            f"cannot write {path}: {reason}; free some space, or give another place; no "
            f"unfinished files are left",
            argument="out",
        ) from error


def _write_fault(error: BaseException | None, folder: Path) -> str | None:
    """Why the disk took no more, if that is what the error is about."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.strerror if error.errno in WRITE_FAULTS else None
        # a library that closes its file raises another error, in the context of the first
        error = error.__cause__ or error.__context__
    # libraries in C++ and Rust have errors of their own, which do not tell the reason
    return os.strerror(errno.ENOSPC) if shutil.disk_usage(folder).free < FULL_BYTES else None


@contextmanager
def replacing(
    path: Path,
    *,
    part: Path | None = None,
    sync: bool = False,
    before: Callable[[], None] | None = None,
) -> Iterator[Path]:
    """Yield a path to write to; if the block succeeds, its file replaces ``path``.

    Whenever the process ends, ``path`` is the old file or the new one, never half of one. With
    ``sync`` that also holds if the machine loses power.

    part: the path to write to, in the folder of ``path``; before: called when the new file is
    complete and the old one still in place.
    """
    # In the same folder: a rename is atomic only within one file system.
    part = part or path.with_name(f".{path.name}.part")
    try:
        yield part
        if sync:  # the bytes before the name: a name alone could survive as an empty file
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        if before is not None:
            before()
        part.replace(path)
        if sync:
            _sync_folder(path.parent)  # the name itself is data of the folder
    finally:
        with suppress(OSError):  # a second error would hide the first
            part.unlink(missing_ok=True)


def own_part(path: Path) -> Path:
    """A name beside ``path`` for its unfinished file, which no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _sync_folder(folder: Path) -> None:
    """Make the disk keep a folder's names, as fsync does for a file's bytes."""
    if os.name == "nt":  # Windows cannot open a folder as a file
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse; the file itself is on the disk
        pass
    finally:
        os.close(handle)


def expanded(path: str | Path) -> Path:
    """The path with ~ and ~user in place; a user that is not known stays as it is written."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises RuntimeError


def relative_path(path: str | Path) -> str:
    """The path relative to the current folder if it is below that, else unchanged."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def named_or_free(out: str | None, usual: str) -> Path:
    """The path that the user gave; by default ``usual`` or the next free usual-2, …."""
    return free_path(Path(usual)) if out is None else new_path(out)


def new_path(out: str) -> Path:
    """The path that the user gave. Raises InputError if it is empty or exists."""
    if not out.strip():
        raise InputError(f"out {out!r} names no file; give a name, or leave it out", argument="out")
    # lexists: a link that leads nowhere, or to itself, is in the way too
    if os.path.lexists(out):
        raise InputError(f"{out} exists; give another name, or remove it", argument="out")
    return Path(out)


def check_writable(path: Path) -> None:
    """Raise InputError if no file or folder can be made at ``path``, which does not exist."""
    place = next(one for one in path.absolute().parents if os.path.lexists(one))
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise InputError(f"cannot write into {place}; give another place", argument="out")


def is_output(folder: str | Path) -> bool:
    """Whether a command wrote the folder: a run, a report, figures or an exported model."""
    return any(all(Path(folder, name).exists() for name in names) for names in OUTPUT_FILES)


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` if the block succeeds.

    An error or a signal that ends the writing leaves nothing. replace: if ``folder`` exists, its
    files of the same names are replaced. Raises InputError if the disk is full.
    """
    try:
        # Beside it, so that the rename stays within one file system.
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-")
    except OSError as error:
        raise InputError(
            f"cannot make the folder {folder}: {error.strerror}; give another place", argument="out"
        ) from error
    with beside as name:
        part = Path(name) / "part"  # a folder inside: the temporary one removes itself
        with naming_full_disk(folder):
            part.mkdir()
            yield part
        if replace and folder.is_dir():
            for file in part.iterdir():
                file.replace(folder / file.name)
            return
        try:
            part.rename(folder)
        except OSError:
            if not os.path.lexists(folder):
                raise
            kept = free_path(folder)
            part.rename(kept)
            raise InputError(
                f"another program has made {folder} meanwhile; the result is in {kept}",
                argument="out",
            ) from None


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Like :func:`whole_folder`, but raise InputError if ``folder`` exists."""
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists; give another name, or remove it", argument="out")
    with whole_folder(folder) as part:
        yield part


def printable(path: str | Path) -> str:
    r"""A path as text that is safe to print: other characters become escapes such as \x1b."""
    # Names of files come from anyone, and a terminal obeys escape sequences in them.
    text = str(path).encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def free_path(path: Path) -> Path:
    """``path``, or the first of name-2, name-3, … that does not exist yet."""
    number = 2
    candidate = path
    # lexists, here and above: a link that leads nowhere is in the way too
    while os.path.lexists(candidate):
        candidate = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return candidate


def acquire_aloud(lock: "BaseFileLock", what: str, patience: float = 0.0) -> None:
    """Acquire a lock, and say that another process is ``what`` if it takes ``patience`` seconds."""
    from filelock import Timeout  # few commands need a lock

    try:
        lock.acquire(timeout=patience)
    except Timeout:
        say(f"another process is {what}; waiting for it")
        lock.acquire()
