"""Image folders: one folder for each class, below train, val and test or side by side.

folder -> names of its parts, class names -> paths and labels (n,)
"""

import os
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch

from vitlit.data.catalog import SOURCES
from vitlit.data.published.hub_name import is_hub
from vitlit.data.published.index import INDEX_FILE, read_index
from vitlit.data.shards.open_shards import find_shard_classes
from vitlit.data.shards.shard_list import LIST_FILE, find_shards
from vitlit.errors import InputError, first_few, say
from vitlit.images.bad_images import say_unread
from vitlit.images.find_images import (
    EXTENSIONS,
    PART_WORDS,
    is_foreign,
    is_image_name,
    is_loop,
    list_images,
)
from vitlit.images.framing import PLAIN_FRAMING, Framing
from vitlit.images.image_store import FileImages

# What published data sets leave in data_dir, where it may hold several of them.
PUBLISHED_FOLDERS = (
    *("MNIST", "FashionMNIST", "cifar-10-batches-py", "cifar-100-python", "stl10_binary"),
    *("flowers-102", "oxford-iiit-pet", "eurosat", INDEX_FILE),
)
IMAGENET_CLASS = re.compile(r"n\d{8}")  # the folder of one of its classes
UNLABELLED_NAMES = ["image"]  # the one class of a folder whose classes are not read
say_once = cache(say)  # a folder is looked through for its parts and for its classes


def _folders(root: Path) -> list[Path]:
    """Folders in root, sorted by name, without hidden ones, our output and links that lead back."""
    if not root.is_dir():
        return []
    found = sorted(p for p in root.iterdir() if p.is_dir() and not is_foreign(str(p)))
    around = (os.path.realpath(root),)
    return [p for p in found if not (p.is_symlink() and is_loop(str(p), around))]


def part_root(data_dir: Path, part: str) -> Path:
    """The folder that holds the class folders of a part."""
    return data_dir if part == "all" else data_dir / part


def part_names(dataset: str, data_dir: Path) -> tuple[str, ...]:
    """The parts that a data set provides: train, val and test, or all.

    A folder has ``train`` and perhaps ``val`` and ``test``; otherwise its class folders are
    ``all``. ImageNet's 50,000 validation images are its test part, as in the papers. Raises
    InputError for a missing folder and for folders that are probably misnamed parts.
    """
    if is_hub(dataset):
        return tuple(read_index(data_dir).parts)
    if dataset == "shards":
        return find_shards(data_dir).parts
    if dataset != "folder":
        return SOURCES[dataset].parts
    if not data_dir.is_dir():
        message = f"no folder {data_dir}; give data_dir a folder of images"
        raise InputError(message, argument="data_dir")
    if not (data_dir / "train").is_dir():
        if odd := [part for part in ("val", "test") if (data_dir / part).is_dir()]:
            raise InputError(
                f"{data_dir} has a folder {odd[0]} but no folder train; add train, "
                f"or rename {odd[0]} if it is a class"
            )
        meant = _misnamed(data_dir)
        # Only if all folders look like parts: one called "dev" may well be a class among others.
        if meant and len(meant) == len(_folders(data_dir)):
            raise InputError(
                f"{data_dir} has the folders {', '.join(meant)}; rename them to "
                f"{', '.join(meant.values())}, if they are parts of the data and not classes"
            )
        return ("all",)
    if meant := _misnamed(data_dir):
        old, new = next(iter(meant.items()))
        raise InputError(
            f"{data_dir} has a folder {old}, which would be ignored beside train; rename it to "
            f"{new}, or move it away"
        )
    return tuple(part for part in ("train", "val", "test") if (data_dir / part).is_dir())


def _misnamed(data_dir: Path) -> dict[str, str]:
    """Folders that are probably parts under another name: that name -> train, val or test."""
    names = [folder.name for folder in _folders(data_dir)]
    meant = {name: PART_WORDS.get(name.lower(), "") for name in names}
    return {name: part for name, part in meant.items() if part and name != part}


def is_own_folder(data_dir: Path, *, unlabelled: bool = False) -> bool:
    """Whether images lie in the class folders of someone's own set, not of a published one.

    unlabelled: they may also lie right in the folder, or in its train.
    """
    if any((data_dir / name).exists() for name in PUBLISHED_FOLDERS):
        return False
    folders = _folders(data_dir / "train") or _folders(data_dir)
    if unlabelled:
        folders += [data_dir, data_dir / "train"]
    if any(IMAGENET_CLASS.fullmatch(folder.name) for folder in folders):
        return False
    return any(_holds_images(folder) for folder in folders)


def _holds_images(folder: Path) -> bool:
    """Whether image files lie right in the folder."""
    try:
        return folder.is_dir() and any(is_image_name(file.name) for file in folder.iterdir())
    except OSError:  # whoever reads it will tell the reason
        return False


def find_class_names(dataset: str, data_dir: Path) -> list[str]:
    """Class names in the order of their labels; for a folder its class folders, sorted.

    Raises InputError for a folder without classes, and if its parts differ in them. Tells which
    folders of images are left out, as they are beside train.
    """
    if dataset == "imagenet":
        from torchvision.models import ViT_B_16_Weights  # its metadata needs no download

        return list(ViT_B_16_Weights.IMAGENET1K_V1.meta["categories"])
    if dataset == "flowers102":
        from torchvision.datasets import Flowers102

        return list(Flowers102.classes)
    if is_hub(dataset):
        return read_index(data_dir).class_names
    if dataset == "shards":
        return find_shard_classes(find_shards(data_dir))
    if dataset != "folder":
        return list(SOURCES[dataset].class_names)
    roots = {part: part_root(data_dir, part) for part in part_names(dataset, data_dir)}
    names = {part: [folder.name for folder in _folders(root)] for part, root in roots.items()}
    first_part, first = next(iter(names.items()))
    beside = [] if first_part == "all" else _classes_beside_parts(data_dir)
    if not first and first_part == "train" and _holds_images(roots["train"]):
        raise InputError(
            f"{roots['train']} is read as the training part, because of its name, but holds images "
            f"and no class folders; if train is a class"
            f"{f' beside {first_few(beside)}' if beside else ''}, rename its folder, else put the "
            f"images of each class into a folder with its name, below {roots['train']}"
        )
    if not first and (data_dir / LIST_FILE).is_file():
        raise InputError(
            f"{data_dir} holds shards, and is read as a folder of images; give dataset shards, and "
            f"data_dir {data_dir}",
            argument=("dataset", "data_dir"),
        )
    if not first:
        raise InputError(
            f"no class folders in {roots[first_part]}; put the images of each class into a folder "
            f"with its name, below {data_dir} or below {data_dir / 'train'}"
        )
    for part, found in names.items():
        if found != first:
            odd = sorted(set(found) ^ set(first))
            raise InputError(
                f"class folders of {first_part} and {part} differ in {data_dir}: "
                f"{first_few(odd)}; every part needs the same classes{unicode_hint(odd)}"
            )
    if hint := unicode_hint(first):
        raise InputError(f"{roots[first_part]} has two folders of one name{hint}")
    if beside:
        say_once(
            f"left out the folders {first_few(beside)} of {data_dir}: beside train, only val and "
            f"test are read; if train is a class like them, rename it"
        )
    return first


def _classes_beside_parts(data_dir: Path) -> list[str]:
    """Names of the folders of images that are no part of the data."""
    beside = [folder for folder in _folders(data_dir) if folder.name not in PART_WORDS.values()]
    return [folder.name for folder in beside if _holds_images(folder)]


def unicode_hint(names: Iterable[str]) -> str:
    """What a message about names has to add if two look the same; empty if none do.

    Macs store the accent of a letter apart (NFD), where others have one character for both (NFC).
    """
    forms: dict[str, set[str]] = {}
    for name in names:
        forms.setdefault(unicodedata.normalize("NFC", name), set()).add(name)
    alike = [name for name, found in forms.items() if len(found) > 1]
    if not alike:
        return ""
    return (
        f"; {first_few(alike)} is written in two Unicode forms that look the same, NFC and NFD: "
        f"use one of them everywhere"
    )


def check_class_names(data_dir: Path, expected: list[str], dataset: str = "folder") -> None:
    """Raise InputError if a folder has other classes than the model: labels would be wrong."""
    found = find_class_names(dataset, data_dir)
    if found != expected:
        more = {
            "only the folder has": sorted(set(found) - set(expected)),
            "only the model has": sorted(set(expected) - set(found)),
        }
        # Labels are places in the sorted names: one class more shifts all that follow.
        lists = [f"{who} {first_few(names)}" for who, names in more.items() if names]
        if not lists:
            raise InputError(
                f"the classes in {data_dir} are those of the model in another order; with "
                f"published weights give class_names '[{','.join(found)}]', and their head is "
                f"reordered",
                argument="class_names",
            )
        raise InputError(
            f"the classes in {data_dir} are not those of the model: {'; '.join(lists)}; give "
            f"the data of the model, or, with published weights, the folder's names as class_names"
            f"{unicode_hint({*found, *expected})}",
            argument="class_names",
        )


def scan_class_folders(
    root: Path,
    count: int,
    *,
    in_chans: int,
    size: tuple[int, int],
    framing: Framing = PLAIN_FRAMING,
    allow_empty: bool = False,
) -> FileImages:
    """Image files of the ``count`` class folders in root, labelled by the order of the folders.

    Raises InputError for a folder without images, unless ``allow_empty``.
    """
    folders = _folders(root)
    if len(folders) != count:
        raise InputError(
            f"{root} has {len(folders)} class folders, expected {count}; remove or add some, or "
            f"give another data_dir",
            argument="data_dir",
        )
    unread: list[str] = []
    found = [list_images(folder, unread) for folder in folders]
    say_unread(unread)
    empty = [folder.name for folder, paths in zip(folders, found, strict=True) if not paths]
    if empty and not (allow_empty and any(found)):
        raise InputError(
            f"no images in {root} for class {first_few(empty)}; known extensions: "
            f"{' '.join(EXTENSIONS)}; add images, or remove the folder of that class from every "
            f"part of the data"
        )
    counts = torch.tensor([len(paths) for paths in found])
    labels = torch.arange(count).repeat_interleave(counts)
    paths = [path for paths in found for path in paths]
    return FileImages(paths, labels, in_chans=in_chans, size=size, framing=framing)


def scan_unlabelled(
    root: Path, *, in_chans: int, size: tuple[int, int], framing: Framing = PLAIN_FRAMING
) -> FileImages:
    """All image files below root, in whatever folders; their label is 0."""
    unread: list[str] = []
    paths = list_images(root, unread)
    say_unread(unread)
    if not paths:
        raise InputError(
            f"no images below {root}; known extensions: {' '.join(EXTENSIONS)}",
            argument="data_dir",
        )
    labels = torch.zeros(len(paths), dtype=torch.long)
    return FileImages(paths, labels, in_chans=in_chans, size=size, framing=framing)
