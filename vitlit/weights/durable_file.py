"""Files that survive a crash and notice damage: a checksum inside, an older copy beside.

what writes an archive -> temporary file in the same folder, fsync, rename, fsync of the folder

The checksum is the comment of the zip archive that torch.save writes, so every reader of such
archives still reads it (`unzip -z` shows it). It covers all bytes before it.
"""

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from vitlit.errors import InputError
from vitlit.files import replacing

MARK = b"vitlit sha256 "
COMMENT = len(MARK) + 64  # the digest in hexadecimal digits
END, SIGNATURE = 22, b"PK\5\6"  # of a zip archive: its last record, without the comment
CHUNK_BYTES = 1 << 20


class _Summed:
    """A file that keeps the checksum of what is written, all but the last two bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, hashlib.sha256()
        self.held = b""

    def write(self, data: Any) -> int:
        self.file.write(data)
        view = memoryview(data).cast("B")
        if len(view) < 2:
            view = memoryview(self.held + view)
            self.held = b""
        self.sum.update(self.held)
        self.sum.update(view[:-2])
        self.held = bytes(view[-2:])
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def write_durable(path: Path, save: Callable[[Any], None], *, keep: bool = False) -> None:
    """Write a zip archive with a checksum; at any moment ``path`` is the old file or the new one.

    save: writes the archive, without a comment, into the file that it is given.
    keep: leave the old file under the name :func:`older_path` gives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_kept = keep and path.exists()
    try:
        with (
            replacing(
                path, sync=True, before=partial(_keep_older, path) if is_kept else None
            ) as part,
            part.open("wb") as file,
        ):
            _write_summed(file, save)
    except (OSError, RuntimeError) as error:
        cause = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
        if cause is None:
            raise
        raise InputError(
            f"cannot write {path}: {cause.strerror or cause}; free some space or change the "
            f"permissions, then go on from the checkpoint before, which is as it was"
        ) from error


def _write_summed(file: BinaryIO, save: Callable[[Any], None]) -> None:
    summed = _Summed(file)
    save(summed)
    if summed.held != b"\0\0":  # the length of the comment, which is to follow
        raise ValueError("the archive has a comment of its own")
    summed.sum.update(COMMENT.to_bytes(2, "little") + MARK)
    file.seek(-2, os.SEEK_END)
    file.write(COMMENT.to_bytes(2, "little") + MARK + summed.sum.hexdigest().encode())


def older_path(path: Path) -> Path:
    """Where the file before the newest is kept: last.ckpt -> last-1.ckpt."""
    return path.with_stem(f"{path.stem}-1")


def _keep_older(path: Path) -> None:
    spare = path.with_name(f".{older_path(path).name}.part")
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)  # so that ``path`` never lacks
    except OSError:  # a file system without hard links
        path.replace(older_path(path))
        return
    spare.replace(older_path(path))
    spare.unlink(missing_ok=True)  # a rename between two names of one file does nothing


def check_durable(path: Path) -> bool:
    """Whether a file has a checksum, which then is right; refuses a damaged file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < END + COMMENT:
            return False
        file.seek(-END - COMMENT, os.SEEK_END)
        end = file.read(END + COMMENT)
        if end[-END:].startswith(SIGNATURE) and end[-2:] != b"\0\0":
            raise InputError(f"{path} is cut short: it lacks its checksum; use another checkpoint")
        if not end.startswith(SIGNATURE) and not end[END:].startswith(MARK):
            return False
        file.seek(0)
        found = hashlib.sha256()
        left = size - 64
        while left:
            data = file.read(min(CHUNK_BYTES, left))
            if not data:
                break
            found.update(data)
            left -= len(data)
    if left or end[END:] != MARK + found.hexdigest().encode():
        raise InputError(f"{path} is damaged: its checksum is wrong; use another checkpoint")
    return True


def file_identity(path: Path) -> tuple[int, ...]:
    """What tells a file from one written later under its name."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def is_intact(path: Path) -> bool:
    """Whether a file is there and, if it has a checksum, as it was written."""
    try:
        return path.is_file() and (check_durable(path) or _ends_as_archive(path))
    except (InputError, OSError):
        return False


def _ends_as_archive(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-min(END, path.stat().st_size), os.SEEK_END)
        return file.read(4) == SIGNATURE  # check() refused one whose comment lacks
