"""The index of an unpacked data set of the hub: which files it has, with which labels.

folder with index.json -> class names; part -> paths, labels (n,)

The folder looks like anyone's: part/class/image. The index beside it keeps the order of the
classes, which the names of folders do not tell, and names that no folder could have.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePath
from typing import NamedTuple

import torch
from torch import Tensor

from vitlit.errors import InputError

INDEX_FILE = "index.json"


class Part(NamedTuple):
    """Images of a part: files, relative to the folder, and the number of the class of each."""

    files: Sequence[str]
    labels: Sequence[int]


class Index(NamedTuple):
    """What an unpacked data set holds. parts: by name: train, val, test, or all of it in one."""

    class_names: list[str]
    parts: dict[str, Part]

    def write(self, folder: Path) -> None:
        """Write it beside the images."""
        parts = {name: part._asdict() for name, part in self.parts.items()}
        told = {"class_names": self.class_names, "parts": parts}
        (folder / INDEX_FILE).write_text(json.dumps(told), encoding="utf-8")


def read_index(folder: Path) -> Index:
    """The index of an unpacked data set. Raises InputError if there is none, or a broken one."""
    file = folder / INDEX_FILE
    try:
        return _read(file, file.stat().st_mtime_ns)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{folder} holds no data set unpacked from the hub; remove it if it is there, give "
            f"data_dir the folder to unpack it to, and download true",
            argument=("data_dir", "download"),
        ) from error


@lru_cache(maxsize=4)  # each part and the class names are asked for in turn
def _read(file: Path, changed: int) -> Index:
    told = json.loads(file.read_text(encoding="utf-8"))
    parts = {name: Part(part["files"], part["labels"]) for name, part in told["parts"].items()}
    class_names = [str(name) for name in told["class_names"]]
    for part in parts.values():
        _check(part, len(class_names))
    return Index(class_names, parts)


def _check(part: Part, classes: int) -> None:
    """Raise ValueError for files outside the folder, and labels that are no class.

    A folder that comes from elsewhere may say anything.
    """
    if len(part.files) != len(part.labels):
        raise ValueError(f"{len(part.files)} files have {len(part.labels)} labels")
    if outside := [name for name in part.files if not _is_inside(name)]:
        raise ValueError(f"{outside[0]} is outside the folder")
    if any(type(label) is not int or not 0 <= label < classes for label in part.labels):
        raise ValueError(f"a label is none of {classes} classes")


def _is_inside(name: str) -> bool:
    return ".." not in name.split("/") and not PurePath(name).is_absolute() and "\\" not in name


def read_files(folder: Path, part: str) -> tuple[list[str], Tensor]:
    """Paths and labels int64 ``(n,)`` of the images of a part."""
    found = read_index(folder).parts[part]
    paths = [str(folder / name) for name in found.files]
    return paths, torch.tensor(found.labels, dtype=torch.long)
