"""Files and folders that commands write: whole or not at all, and never over old ones."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitlit.errors import InputError


@contextmanager
def replacing(
    path: Path,
    *,
    part: Path | None = None,
    sync: bool = False,
    before: Callable[[], None] | None = None,
) -> Iterator[Path]:
    """A path to write to, whose file takes the place of ``path`` once all went well.

    Whenever the process may end, ``path`` is the old file or the new one, never half of one. With
    ``sync`` that holds for a machine that loses its power too: the file's bytes reach the disk
    before its name does, and its name before this returns.

    part: where to write, in the same folder, since only there a rename is atomic; before: called
    when the new file is whole and the old one still in place.
    """
    part = part or path.with_name(f".{path.name}.part")
    try:
        yield part
        if sync:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        if before is not None:
            before()
        part.replace(path)
        if sync:
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # which has no such call, and needs none
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse; the file itself is written
        pass
    finally:
        os.close(handle)


def relative_path(path: str | Path) -> str:
    """The path as one would type it here."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def named_or_free(out: str | None, usual: str) -> Path:
    """What --out names, or ``usual``, or usual-2 and so on, which does not exist yet."""
    return Path(out) if out else free_path(Path(usual))


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in, beside ``folder`` and renamed to it once all went well.

    Unlike :func:`new_folder` it leaves nothing where an error ends the writing.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-")
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    with beside as name:
        part = Path(name) / "export"
        part.mkdir()
        yield part
        part.rename(folder)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A new folder, which goes away again where an error leaves nothing in it."""
    make_folder(folder)
    try:
        yield folder
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def make_folder(folder: Path) -> None:
    """Make a folder that must not exist yet."""
    if folder.exists():
        raise InputError(f"{folder} exists; give --out another name, or remove it")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error


def printable(path: str | Path) -> str:
    """A file's name; what a terminal would act on or could not show becomes an escape."""
    text = str(path).encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def free_path(path: Path) -> Path:
    """``path``, or with -2, -3, … before the ending, whichever does not exist yet."""
    number = 2
    candidate = path
    while candidate.exists():
        candidate = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return candidate
