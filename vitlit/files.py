"""Files and folders that commands write: whole files, and nothing over what is there."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitlit.errors import InputError

RUNS_FOLDER = "lightning_logs"  # in the current folder: where `best` and `last` are looked for
# The files that tell a folder of a command's output from the user's own, wherever it was moved and
# whatever its name is: those of one row.
OUTPUT_FILES = (
    # The first of each row is rare, so most folders cost one look for each.
    ("checkpoints/last.ckpt",),  # fit
    ("checkpoints/best.ckpt",),
    ("config.yaml", "history.csv"),
    ("metrics.json", "mistakes.csv"),  # test
    ("metrics.json", "nearest.png"),  # probe
    ("nearest.csv", "nearest.png"),
    ("index.html", "arrays.npz"),  # explain
    ("model.safetensors", "config.json"),  # export
    ("model.onnx",),
    ("model.pt2",),
)


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


def relative_path(path: str | Path) -> str:
    """The path relative to the current folder if it is below that, else unchanged."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def named_or_free(out: str | None, usual: str) -> Path:
    """The path that the user gave with --out; by default ``usual`` or the next free usual-2, …."""
    return Path(out) if out else free_path(Path(usual))


def is_output(folder: str | Path) -> bool:
    """Whether a command wrote the folder: a run, a report, figures or an exported model."""
    return any(all(Path(folder, name).exists() for name in names) for names in OUTPUT_FILES)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``folder`` if the block succeeds.

    Unlike :func:`new_folder` it leaves nothing if an error ends the writing.
    """
    try:
        # Beside it, so that the rename stays within one file system.
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-")
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    with beside as name:
        part = Path(name) / "export"  # a folder inside: the temporary one removes itself
        part.mkdir()
        yield part
        part.rename(folder)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make and yield a new folder; remove it afterwards if it is empty."""
    make_folder(folder)
    try:
        yield folder
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def make_folder(folder: Path) -> None:
    """Make a folder; raise InputError if it exists or cannot be made."""
    if folder.exists():
        raise InputError(f"{folder} exists; give --out another name, or remove it")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error


def printable(path: str | Path) -> str:
    r"""A path as text that is safe to print: other characters become escapes such as \x1b."""
    # Names of files come from anyone, and a terminal obeys escape sequences in them.
    text = str(path).encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def free_path(path: Path) -> Path:
    """``path``, or the first of name-2, name-3, … that does not exist yet."""
    number = 2
    candidate = path
    while candidate.exists():
        candidate = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return candidate
