"""The encoded image in a cell of a table: its bytes, or those of a file of the data set.

cell, folders -> bytes

A table can name any path or address. Only files of the data set itself are read, so that no set
can copy a private file of this machine among its images, or have addresses fetched.
"""

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from vitlit.data.published.hub_name import HubName
from vitlit.errors import InputError
from vitlit.files import printable
from vitlit.images.image_io import MAX_FILE_BYTES

IN_ARCHIVE = re.compile(r"zip://(?P<member>.*)::(?P<archive>.+)", re.DOTALL)  # as fsspec has it


def homes_of(name: HubName) -> list[Path]:
    """The folders whose files a data set may name: its own, and those of the libraries' caches."""
    import datasets
    from huggingface_hub import constants

    caches = datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH
    found = [Path(home) for home in (*caches, constants.HF_HUB_CACHE)]
    if name.is_local:
        found.append(Path(name.source))
    return [kind for home in found for kind in (Path(os.path.normpath(home)), home.resolve())]


def image_bytes(cell: Any, homes: Sequence[Path], name: HubName) -> bytes | None:
    """The encoded image in a cell, None if it is empty.

    Raises InputError if it names a file outside ``homes``, one that is too large for an image, or
    one that cannot be read.
    """
    if cell is None:
        return None
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    if not cell.get("path"):
        return None
    where = str(cell["path"])
    found = IN_ARCHIVE.fullmatch(where)
    # Not resolved: a link within the folder is its owner's, who may keep the images elsewhere.
    file = Path(os.path.normpath(found["archive"] if found else where))
    if not any(file.is_relative_to(home) for home in homes):
        raise InputError(
            f"{name} has an image at {printable(where)}, which is none of its own files; give a "
            f"data set that holds its images",
            argument="dataset",
        )
    try:
        if found is None:
            _check_size(file.stat().st_size, where, name)
            with file.open("rb") as stream:
                return stream.read(MAX_FILE_BYTES)
        archive = _opened(file, file.stat().st_mtime_ns)
        # a few bytes may unpack to more than memory holds; no more are read than are told here
        _check_size(archive.getinfo(found["member"]).file_size, where, name)
        with archive.open(found["member"]) as member:
            return member.read(MAX_FILE_BYTES)
    except (OSError, KeyError, BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot read {printable(where)} of {name}: {reason}; give a data set that is complete",
            argument="dataset",
        ) from error


def _check_size(size: int, where: str, name: HubName) -> None:
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"{name} has an image of {size:,} bytes at {printable(where)}, more than the maximum "
            f"of {MAX_FILE_BYTES:,}; give a data set of smaller images",
            argument="dataset",
        )


@lru_cache(maxsize=1)  # images of one archive follow each other, and its list may be long
def _opened(archive: Path, changed: int) -> ZipFile:
    return ZipFile(archive)
