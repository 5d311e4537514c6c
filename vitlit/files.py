"""Files and folders that commands write: whole or not at all, and never over old ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitlit.errors import InputError


def relative_path(path: str | Path) -> str:
    """The path as one would type it here."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def named_or_free(out: str | None, usual: str) -> Path:
    return Path(out) if out else free_path(Path(usual))


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
