"""Files that survive a crash and reveal damage: a checksum inside, an older copy beside.

archive writer -> temporary file in the same folder, fsync, rename, fsync of the folder

The checksum is stored as the comment of the zip archive that torch.save writes, so every reader
of such archives still reads the file (`unzip -z` shows it). It covers all bytes before it.
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
COMMENT_BYTES = len(MARK) + 64  # the mark and the digest in hexadecimal digits
# a zip archive ends in a record of 22 bytes; its last two are the length of the comment after it
END_BYTES, END_SIGNATURE = 22, b"PK\5\6"
MAX_COMMENT_BYTES = 65535
CHUNK_BYTES = 1 << 20  # read at a time: a checkpoint may be larger than memory
# Files from this size on are summed once by a process, unless they change: 264 MB take .2 seconds.
# Those below are summed more quickly than the clock ticks that tells a change.
LARGE_BYTES = 1 << 24


class _Summed:
    """A file that sums what is written, except for the last two bytes.

    They are the length of the archive's comment, which is changed once the comment is there.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, hashlib.sha256()
        self.held = b""

    def write(self, data: Any) -> int:
        self.file.write(data)
        view = memoryview(data).cast("B")  # bytes, whatever the elements of the buffer are
        count = len(view)
        if len(view) < 2:  # the last two bytes may come in two writes
            view = memoryview(self.held + view)
            self.held = b""
        self.sum.update(self.held)
        self.sum.update(view[:-2])
        self.held = bytes(view[-2:])
        return count

    def flush(self) -> None:
        self.file.flush()


def write_durable(path: Path, save: Callable[[Any], None], *, keep: bool = False) -> None:
    """Write a zip archive with a checksum; at any moment ``path`` is the old file or the new one.

    save: writes the archive, without a comment, into the file that it is given.
    keep: leave the old file under the name that :func:`older_path` gives.
    Raises InputError if the disk is full or not writable.
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
        # torch's writer may raise a RuntimeError of its own, whose context is the OSError
        cause = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
        if cause is None:
            raise
        raise InputError(
            f"cannot write {path}: {cause.strerror or cause}; free some space or change the "
            f"permissions, then resume from the previous checkpoint, which is unchanged"
        ) from error


def _write_summed(file: BinaryIO, save: Callable[[Any], None]) -> None:
    """Write the archive, then the checksum as its comment."""
    summed = _Summed(file)
    save(summed)
    if summed.held != b"\0\0":  # the length of the comment, which is to follow
        raise ValueError("the archive has a comment of its own")
    # the sum covers the new length and the mark too: a flipped bit there is damage as well
    summed.sum.update(COMMENT_BYTES.to_bytes(2, "little") + MARK)
    file.seek(-2, os.SEEK_END)
    file.write(COMMENT_BYTES.to_bytes(2, "little") + MARK + summed.sum.hexdigest().encode())


def older_path(path: Path) -> Path:
    """Where the previous file is kept: last.ckpt -> last-1.ckpt."""
    return path.with_stem(f"{path.stem}-1")


def _keep_older(path: Path) -> None:
    """Give the file its second name, so that the new file may take the first."""
    spare = path.with_name(f".{older_path(path).name}.part")
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)  # a link, not a rename: at no moment is ``path`` missing
    except OSError:
        # a file system without hard links: until the new file is renamed, only the older one exists
        path.replace(older_path(path))
        return
    spare.replace(older_path(path))
    spare.unlink(missing_ok=True)  # POSIX: a rename between two names of one file does nothing


_right: set[tuple[int, ...]] = set()  # identities of the large files whose checksum is right


def check_durable(path: Path) -> bool:
    """Whether a file has a checksum that is right, False if it has none; refuses a damaged file."""
    identity = file_identity(path)  # before it is read: a later change makes it another one
    size = path.stat().st_size
    if identity in _right:
        return True
    with path.open("rb") as file:
        if size < END_BYTES + COMMENT_BYTES:
            return False
        file.seek(-END_BYTES - COMMENT_BYTES, os.SEEK_END)
        end = file.read(END_BYTES + COMMENT_BYTES)
        # either mark may be the damaged one, so one of the two is enough to demand a right sum
        if not end.startswith(END_SIGNATURE) and not end[END_BYTES:].startswith(MARK):
            file.seek(-min(size, END_BYTES + MAX_COMMENT_BYTES), os.SEEK_END)
            _check_last_record(path, file.read())
            return False
        file.seek(0)
        found = hashlib.sha256()
        left = size - 64  # all but the digest itself
        while left:
            data = file.read(min(CHUNK_BYTES, left))
            if not data:  # the file became shorter while it was read
                break
            found.update(data)
            left -= len(data)
    if left or end[END_BYTES:] != MARK + found.hexdigest().encode():
        raise InputError(f"{path} is damaged: its checksum is wrong; use another checkpoint")
    if size >= LARGE_BYTES:
        _right.add(identity)
    return True


def _check_last_record(path: Path, tail: bytes) -> None:
    """Refuse an archive that does not end where its last record says; tail: its last bytes.

    Readers of zip archives overlook that, so a file that lost a part of its checksum would pass for
    one of another program, which has none.
    """
    place = tail.rfind(END_SIGNATURE)
    record, comment = tail[place : place + END_BYTES], tail[place + END_BYTES :]
    if place < 0 or len(record) < END_BYTES:  # readers refuse it by themselves
        return
    missing = int.from_bytes(record[-2:], "little") - len(comment)
    if missing > 0:
        raise InputError(
            f"{path} is damaged: it is truncated by {missing} bytes; use another checkpoint"
        )
    # other programs append data of their own to archives, which harms nothing
    if missing < 0 and comment.startswith(MARK):
        raise InputError(
            f"{path} is damaged: {-missing} bytes follow its end; use another checkpoint"
        )


def file_identity(path: Path) -> tuple[int, ...]:
    """What distinguishes a file from one written later under the same name."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def is_intact(path: Path) -> bool:
    """Whether a file exists and is undamaged: by its checksum, or else by its last record."""
    try:
        return path.is_file() and (check_durable(path) or _ends_as_archive(path))
    except (InputError, OSError):
        return False


def _ends_as_archive(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-min(END_BYTES, path.stat().st_size), os.SEEK_END)
        # no comment is expected here: check_durable refused a file that lost its own
        return file.read(4) == END_SIGNATURE
