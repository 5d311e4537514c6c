"""Reading a tar file once from its start to its end: which images it holds, where, and their class.

tar file of the WebDataset layout -> Sample of each image

A sample is the files of one key, which follow each other: ``cat/0001.jpg`` and ``cat/0001.cls``.
The key is the path up to the first dot of the file's name. A sample's class is what its .cls holds,
or ``label``, ``cls`` or ``class`` in its .json; without both the folder of its key. Nothing else is
read: no pickle, no link, and no file is ever written, whatever names a tar file gives.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from vitlit.errors import InputError
from vitlit.files import printable
from vitlit.images.find_images import EXTENSIONS
from vitlit.images.image_io import MAX_FILE_BYTES

BLOCK = tarfile.BLOCKSIZE  # 512 bytes: of a header, and what contents are padded to
MAX_LABEL_BYTES = 2**16  # of a .cls or .json file
LABEL_KEYS = ("label", "cls", "class")  # of a .json file
COPY = "%00"  # tells keys apart; no file name has that letter
KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}


class Sample(NamedTuple):
    """An image in a tar file: its name, its first byte, its size in bytes, the text of its label.

    content: its bytes; empty if it is larger than any image that is read.
    """

    name: str
    offset: int
    size: int
    label: str
    content: bytes


def encode_name(path: str, copies: int = 0) -> str:
    """The name of an image file in a shard: its key has no dot, which would end it.

    copies: how many others have the same key without this, such as 1.jpg beside 1.png.
    """
    folder, slash, file = path.rpartition("/")
    stem, _, ending = file.rpartition(".")
    key = stem.replace("%", "%25").replace(".", "%2E") + COPY * copies
    return f"{folder}{slash}{key}.{ending}"


def decode_name(name: str) -> str:
    """The path that :func:`encode_name` was given."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.replace(COPY, "").replace("%2E", ".").replace("%25", "%")


def split_key(name: str) -> tuple[str, str]:
    """The key of a file and the rest of its name, in lower case; empty for other names.

    They are those of WebDataset.
    """
    found = KEY.fullmatch(name)
    return (found[1], found[2].lower()) if found else ("", "")


def scan_tar(stream: Any, where: str, size: int) -> Iterator[Sample]:
    """The images of a tar file of ``size`` bytes. Raises InputError if it is damaged."""
    start = stream.read(6)
    for magic, name in PACKED.items():
        if start.startswith(magic):
            raise InputError(
                f"{printable(where)} is compressed ({name}); unpack it to a plain .tar: images are "
                f"compressed already, and of a packed file no part can be read alone",
                argument="data_dir",
            )
    stream.seek(0)
    group: list[tuple[str, int, int, bytes]] = []  # name, offset, size, content
    last = ""
    for member, content in _members(stream, where, size):
        key, _ = split_key(member.name)
        if key != last:
            yield from _samples(last, group, where)
            group, last = [], key
        if key:
            group.append((member.name, member.offset_data, member.size, content))
    yield from _samples(last, group, where)


def _members(stream: Any, where: str, size: int) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The images and labels of a tar file, with their contents."""
    damaged = f"the shard {printable(where)} is damaged or truncated"
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    raise InputError(f"{damaged}: {printable(member.name)} goes on after its end")
                if limit := _limit(member.name):
                    content = b""
                    if member.size <= limit:
                        stream.seek(member.offset_data)
                        content = stream.read(member.size)
                    yield member, content
            end = tar.offset
    except InputError:
        raise
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InputError(f"{damaged}: {error}; copy or write it again") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot read the shard {printable(where)}: {reason}") from error
    stream.seek(end)
    if (mark := stream.read(BLOCK)) != bytes(BLOCK):  # tarfile ends at anything that is no header
        what = f"at byte {end:,} is neither a file nor the end mark" if mark else "no end mark"
        raise InputError(f"{damaged}: {what}; copy or write it again")


def _limit(name: str) -> int:
    """The most bytes that are read of a member; 0 if it is neither an image nor a label."""
    lower = name.lower()
    if lower.endswith(EXTENSIONS):
        return MAX_FILE_BYTES
    return MAX_LABEL_BYTES if lower.endswith((".cls", ".json")) else 0


def _samples(key: str, group: list[tuple[str, int, int, bytes]], where: str) -> Iterator[Sample]:
    """The images of one key: one with a label of its own, or each with the class of its folder."""
    images = [one for one in group if one[0].lower().endswith(EXTENSIONS)]
    if not images:
        return
    label = _label({split_key(one[0])[1]: one[3] for one in group}, f"{where}/{key}")
    if label is not None:
        # beside the image itself there may be others, such as a mask: the shortest name wins
        images = [min(images, key=lambda one: one[0].count("."))]
    for name, offset, size, content in images:
        text = PurePosixPath(key).parent.name if label is None else label
        yield Sample(decode_name(name), offset, size, text, content)


def _label(contents: dict[str, bytes], name: str) -> str | None:
    """The text of the label beside an image; None if there is none."""
    try:
        if "cls" in contents:
            return contents["cls"].decode().strip()
        about = json.loads(contents["json"]) if "json" in contents else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read the label of {printable(name)}: {error}") from error
    if not isinstance(about, dict):
        return None
    found = next((about[key] for key in LABEL_KEYS if key in about), None)
    if found is not None and (isinstance(found, bool) or not isinstance(found, str | int)):
        kind = type(found).__name__
        raise InputError(
            f"the label of {printable(name)} is a {kind}; a class is a text or a whole number"
        )
    return None if found is None else str(found).strip()
