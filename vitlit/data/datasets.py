"""The table of data sets: where their images and labels are on disk, and what they are.

data set, part -> images that ``gather(indices (B,))`` -> uint8 (B, C, h, w), labels int64 (n,)

A part is what the data set itself provides: ``train``, ``val``, ``test``, or ``all`` where nobody
published a division. How parts become splits is the DataModule's business.
"""

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchvision import datasets as tv

from vitlit.errors import InputError
from vitlit.foreign_texts import find_text
from vitlit.images.bad_images import say_unread
from vitlit.images.decode_cache import open_checked, open_decoded
from vitlit.images.image_store import FileImages, Images, MemoryImages
from vitlit.images.preprocess import EXTENSIONS, is_hidden, is_loop, list_images

DatasetName = Literal[
    "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet", "folder"
]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIGIT_NAMES = tuple("0123456789")
PART_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}  # what people call the parts of a data set
FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100_NAMES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
    "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
    "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
    "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy",
    "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal",
    "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar",
    "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One row of the table: size in pixels, channels, and statistics of pixels in [0, 1]."""

    size: int
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()  # empty: found on disk
    torchvision: Any = None


SOURCES: dict[str, Source] = {
    "digits": Source(8, 1, (0.3053,), (0.3761,), DIGIT_NAMES),
    "mnist": Source(28, 1, (0.1307,), (0.3081,), DIGIT_NAMES, tv.MNIST),
    "fashion_mnist": Source(28, 1, (0.2860,), (0.3530,), FASHION_NAMES, tv.FashionMNIST),
    "cifar10": Source(
        32, 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), CIFAR10_NAMES, tv.CIFAR10
    ),
    "cifar100": Source(
        32, 3, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), CIFAR100_NAMES, tv.CIFAR100
    ),
    "imagenet": Source(224, 3, IMAGENET_MEAN, IMAGENET_STD),
    "folder": Source(224, 3, IMAGENET_MEAN, IMAGENET_STD),
}


def _folders(root: Path) -> list[Path]:
    """Folders below root, sorted by name; hidden ones and links that lead back are left out."""
    if not root.is_dir():
        return []
    found = sorted(p for p in root.iterdir() if p.is_dir() and not is_hidden(p.name))
    around = (os.path.realpath(root),)
    return [p for p in found if not (p.is_symlink() and is_loop(str(p), around))]


def _part_root(data_dir: Path, part: str) -> Path:
    return data_dir if part == "all" else data_dir / part


def part_names(dataset: str, data_dir: Path) -> tuple[str, ...]:
    """The parts that a data set provides.

    A folder has ``train`` and perhaps ``val`` and ``test``; otherwise its class folders are
    ``all``. ImageNet's 50,000 validation images serve as its test part, as in the papers: the
    labels of its test set were never published.
    """
    if dataset == "digits":
        return ("all",)
    if dataset != "folder":
        return ("train", "test")
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
    """Folders that are not called train, val or test but seem to be meant: name -> right name."""
    names = [folder.name for folder in _folders(data_dir)]
    meant = {name: PART_WORDS.get(name.lower(), "") for name in names}
    return {name: part for name, part in meant.items() if part and name != part}


def find_class_names(dataset: str, data_dir: Path) -> list[str]:
    """Class names in the order of their labels; a folder's are its class folders, sorted."""
    if dataset == "imagenet":
        from torchvision.models import ViT_B_16_Weights  # its metadata needs no download

        return list(ViT_B_16_Weights.IMAGENET1K_V1.meta["categories"])
    if dataset != "folder":
        return list(SOURCES[dataset].class_names)
    roots = {part: _part_root(data_dir, part) for part in part_names(dataset, data_dir)}
    names = {part: [folder.name for folder in _folders(root)] for part, root in roots.items()}
    first_part, first = next(iter(names.items()))
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
                f"{', '.join(odd[:5])}; every part needs the same classes"
            )
    return first


def first_few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check_class_names(data_dir: Path, expected: list[str]) -> None:
    """Refuse a folder whose classes are not those of the model: labels would shift in silence."""
    found = find_class_names("folder", data_dir)
    if found != expected:
        more = {
            "only the folder has": sorted(set(found) - set(expected)),
            "only the model has": sorted(set(expected) - set(found)),
        }
        lists = [f"{who} {first_few(names)}" for who, names in more.items() if names]
        if not lists:
            raise InputError(
                f"the classes in {data_dir} are those of the model in another order; with "
                f"published weights give class_names '[{','.join(found)}]', an order that their "
                f"head then takes",
                argument="class_names",
            )
        raise InputError(
            f"the classes in {data_dir} are not those of the model: {'; '.join(lists)}; give the "
            f"data that the model is for, or of published weights the names as class_names",
            argument="class_names",
        )


def _scan(root: Path, count: int, *, in_chans: int, size: tuple[int, int]) -> FileImages:
    """Image files of the class folders below root, labelled by the order of their folder."""
    folders = _folders(root)
    if len(folders) != count:
        raise InputError(f"{root} has {len(folders)} class folders, expected {count}")
    unread: list[str] = []
    found = [list_images(folder, unread) for folder in folders]
    say_unread(unread)
    empty = [folder.name for folder, paths in zip(folders, found, strict=True) if not paths]
    if empty:
        raise InputError(
            f"no images in {root} for class {', '.join(empty[:5])}; "
            f"known endings: {' '.join(EXTENSIONS)}"
        )
    counts = torch.tensor([len(paths) for paths in found])
    labels = torch.arange(count).repeat_interleave(counts)
    paths = [path for paths in found for path in paths]
    return FileImages(paths, labels, in_chans=in_chans, size=size)


def _read_digits() -> MemoryImages:
    """The 1,797 digits of the package; values 0..16 are spread over 0..255."""
    with (
        (files("vitlit.data") / "digits" / "digits.npz").open("rb") as file,
        np.load(file) as arrays,
    ):
        images, labels = arrays["images"], arrays["labels"]
    pixels = np.round(images.astype(np.float64) * (255 / 16)).astype(np.uint8)
    return MemoryImages(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels))


def _read_torchvision(dataset: str, part: str, data_dir: Path) -> MemoryImages:
    try:
        source = SOURCES[dataset].torchvision(str(data_dir), train=part == "train")
    except Exception as error:  # torchvision raises many kinds for files cut short
        hint = find_text("download hint", str(error))
        reason = str(error)[: hint.start()] if hint else str(error)
        raise InputError(
            f"cannot read {dataset} in {data_dir}: {reason}; remove what is there of it, and give "
            f"download true",
            argument="download",
        ) from error
    pixels = torch.as_tensor(source.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return MemoryImages(pixels, torch.as_tensor(source.targets))


def prepare_data_set(dataset: str, data_dir: Path, *, download: bool) -> None:
    """Fetch or unpack what is missing on disk; called by one process of each machine."""
    source = SOURCES[dataset].torchvision
    if dataset == "imagenet":
        for split in ("train", "val"):
            if not (data_dir / split).is_dir():
                _unpack_imagenet(data_dir, split)
    elif source is not None and download:
        try:
            for train in (True, False):
                source(str(data_dir), train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"cannot download {dataset} to {data_dir}: {error}; "
                f"give data_dir a folder that has it",
                argument="data_dir",
            ) from error


def _unpack_imagenet(data_dir: Path, split: str) -> None:
    if not (data_dir / f"ILSVRC2012_img_{split}.tar").is_file():
        raise InputError(
            f"no ImageNet in {data_dir}: it has neither the folder {split} nor "
            f"ILSVRC2012_img_{split}.tar; see https://image-net.org, which asks for an account"
        )
    try:
        tv.ImageNet(str(data_dir), split=split)
    except (ImportError, OSError, RuntimeError) as error:  # it reads the devkit with scipy
        raise InputError(f"cannot unpack ImageNet in {data_dir}: {error}") from error


def read_part(
    dataset: str,
    part: str,
    data_dir: Path,
    *,
    num_classes: int,
    in_chans: int,
    size: tuple[int, int],
    memory_gb: float,
    thorough: bool = False,
) -> Images:
    """The images of one part, with a list of the files that cannot be read.

    in_chans and size apply to image files, which are decoded to them; sets that come as arrays
    keep their own. Files that fit ``memory_gb`` (10**9 bytes) decoded are decoded once, into a
    cache on disk that is mapped into memory; larger sets are decoded each time. Of these, ``bad``
    lists the files that a look at the header condemns, or decoding, if ``thorough``.
    """
    if dataset == "digits":
        return _read_digits()
    if SOURCES[dataset].torchvision is not None:
        return _read_torchvision(dataset, part, data_dir)
    folder = "val" if (dataset, part) == ("imagenet", "test") else part
    root = _part_root(data_dir, folder)
    images = _scan(root, num_classes, in_chans=in_chans, size=size)
    return open_images(images, root, memory_gb=memory_gb, thorough=thorough)


def open_images(images: FileImages, root: Path, *, memory_gb: float, thorough: bool) -> Images:
    """Files below ``root`` decoded into memory where they fit it, else as they are; checked."""
    if images.nbytes <= memory_gb * 1e9:
        return open_decoded(images, root)
    return open_checked(images, root, thorough=thorough)
