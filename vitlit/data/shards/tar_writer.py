"""Writing tar files as Python's module does, in a third of its time, and telling where things lie.

(name, content) -> the place of the content in the file
"""

import tarfile
from functools import cache
from typing import BinaryIO

NAME, SIZE, CHECKSUM = slice(0, 100), slice(124, 135), slice(148, 156)  # of a header, in bytes


@cache
def _blank() -> bytes:
    """The header of a file without a name, content, time or owner; 512 bytes."""
    return tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)


@cache
def _blank_sum() -> int:
    blank = _blank()
    return sum(blank) - sum(blank[CHECKSUM]) + 8 * ord(" ") - sum(blank[SIZE])


def tar_header(name: str, size: int) -> bytes:
    """The header of a file, as tarfile makes it; more than 512 bytes for long names."""
    letters = name.encode(errors="surrogateescape")
    if len(letters) > NAME.stop or not letters.isascii():
        about = tarfile.TarInfo(name)
        about.size = size
        return about.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    digits, blank = b"%011o" % size, _blank()
    total = _blank_sum() + sum(letters) + sum(digits)
    start = letters.ljust(NAME.stop, b"\0") + blank[NAME.stop : SIZE.start] + digits
    return start + blank[SIZE.stop : CHECKSUM.start] + b"%06o\0 " % total + blank[CHECKSUM.stop :]


def padded(size: int) -> int:
    """Bytes that a content takes in a tar file."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


class TarWriter:
    """Appends files to a tar file, which ``finish`` ends."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size = file, 0

    def add(self, name: str, content: bytes) -> int:
        """Append a file; returns the place of its first byte."""
        header = tar_header(name, len(content))
        start = self.size + len(header)
        self.size = start + padded(len(content))
        self._file.write(header)
        self._file.write(content)
        self._file.write(bytes(self.size - start - len(content)))
        return start

    def finish(self) -> int:
        """Write the end mark; returns the size of the file."""
        whole = self.size + 2 * tarfile.BLOCKSIZE
        whole = -(-whole // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
        self._file.write(bytes(whole - self.size))
        return whole
