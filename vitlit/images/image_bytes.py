"""An image file that is part of a larger file, as it was read from there, and hashes of images.

bytes of a file, its name -> what ``image_io`` reads like a path; hashes int64
"""

import os
import unicodedata
from hashlib import blake2b
from io import FileIO
from typing import NamedTuple

SAMPLE_BYTES = 2**16  # of the start and of the end of a file, which tell files apart


class ImageBytes(NamedTuple):
    """The bytes of an image file, in place of its path; ``str`` gives the name for messages.

    fault: why there are no bytes, if that is so.
    """

    name: str
    content: memoryview
    fault: str = ""

    def __str__(self) -> str:
        return self.name


def name_hash(name: str) -> int:
    """Hash of a path below the folder of a data set, the same on every system."""
    # NFC: a Mac may store "é" as two letters, and a copy on Linux as one. surrogateescape: file
    # names on Linux are bytes and need not be UTF-8.
    text = unicodedata.normalize("NFC", name.replace(os.sep, "/"))
    return _number(blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest())


def content_hash(content: memoryview | bytes) -> int:
    """Hash of the size, the start and the end of a file with these bytes."""
    size = len(content)
    digest = blake2b(content[:SAMPLE_BYTES], digest_size=8, salt=size.to_bytes(8, "big"))
    if size > SAMPLE_BYTES:
        digest.update(content[max(SAMPLE_BYTES, size - SAMPLE_BYTES) :])
    return _number(digest.digest())


def file_hash(path: str) -> int:
    """:func:`content_hash` of a file, of which only those parts are read; 0 if they cannot be."""
    try:
        with FileIO(path) as file:  # without a buffer, which costs as much as all the rest
            size = os.fstat(file.fileno()).st_size
            start = _read(file, min(SAMPLE_BYTES, size))
            digest = blake2b(start, digest_size=8, salt=size.to_bytes(8, "big"))
            if size > SAMPLE_BYTES:
                file.seek(max(SAMPLE_BYTES, size - SAMPLE_BYTES))
                digest.update(_read(file, SAMPLE_BYTES))
    except OSError:  # reading the image will give the reason
        return 0
    return _number(digest.digest())


def _read(file: FileIO, count: int) -> bytes:
    """``count`` bytes, or all that are left: one call of the system may give fewer."""
    found = file.read(count)
    while len(found) < count and (more := file.read(count - len(found))):
        found += more
    return found


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "big", signed=True)
