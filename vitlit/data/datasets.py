"""Reading data sets: downloading them, and opening the images of their parts.

data set, part -> Images: gather(indices (B,)) -> uint8 (B, C, h, w), labels int64 (n,)

A part is what the data set itself provides: ``train``, ``val``, ``test``, or ``all`` if no division
was published. ``split_builder`` turns parts into splits.
"""

from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitlit.data.catalog import SOURCES
from vitlit.data.image_folder import part_root, scan_class_folders, scan_unlabelled
from vitlit.errors import InputError, find_text
from vitlit.images.decode_cache import open_checked, open_decoded
from vitlit.images.framing import PLAIN_FRAMING, Framing
from vitlit.images.image_store import FileImages, Images, MemoryImages


def _read_digits() -> MemoryImages:
    """The 1,797 digits shipped with the package; values 0..16 are scaled to 0..255."""
    with (
        (files("vitlit.data") / "digits" / "digits.npz").open("rb") as file,
        np.load(file) as arrays,
    ):
        images, labels = arrays["images"], arrays["labels"]
    pixels = np.round(images.astype(np.float64) * (255 / 16)).astype(np.uint8)
    return MemoryImages(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels))


def torchvision_class(name: str) -> Any:
    """A class of torchvision.datasets."""
    # Imported where it is used: it takes as long as torch, and most sets are read without it.
    from torchvision import datasets

    return getattr(datasets, name)


def _read_torchvision(dataset: str, part: str, data_dir: Path) -> MemoryImages:
    name = SOURCES[dataset].torchvision
    assert name is not None
    try:
        source = torchvision_class(name)(str(data_dir), train=part == "train")
    except Exception as error:  # torchvision raises many types for files that were truncated
        # its hint goes on with an argument of Python's
        hint = find_text("download hint", str(error))
        reason = str(error)[: hint.start()] if hint else str(error)
        raise InputError(
            f"cannot read {dataset} in {data_dir}: {reason}; remove its files there, and give "
            f"download true",
            argument="download",
        ) from error
    pixels = torch.as_tensor(source.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return MemoryImages(pixels, torch.as_tensor(source.targets))


def prepare_data_set(dataset: str, data_dir: Path, *, download: bool) -> None:
    """Download or unpack what is missing on disk; one process of each machine calls it."""
    source = SOURCES[dataset].torchvision
    if dataset == "imagenet":
        for split in ("train", "val"):
            if not (data_dir / split).is_dir():
                _unpack_imagenet(data_dir, split)
    elif source is not None and download:
        is_new = not data_dir.exists()
        try:
            for train in (True, False):  # both: the other commands must not need the network
                torchvision_class(source)(str(data_dir), train=train, download=True)
        except (OSError, RuntimeError) as error:
            _remove_empty_folders(data_dir, is_new=is_new)
            raise InputError(
                f"cannot download {dataset} to {data_dir}: {' '.join(str(error).split())}; "
                f"give data_dir the folder of a copy from elsewhere",
                argument="data_dir",
            ) from error


def _remove_empty_folders(data_dir: Path, *, is_new: bool) -> None:
    """Remove the folders that a failed download made: torchvision's, and data_dir if it is new."""
    made = [path for path in data_dir.glob("*/raw") if path.is_dir()]
    for folder in [*made, *(path.parent for path in made), *([data_dir] if is_new else [])]:
        with suppress(OSError):  # it holds something
            folder.rmdir()


def _unpack_imagenet(data_dir: Path, split: str) -> None:
    if not (data_dir / f"ILSVRC2012_img_{split}.tar").is_file():
        raise InputError(
            f"no ImageNet in {data_dir}: it has neither the folder {split} nor "
            f"ILSVRC2012_img_{split}.tar; see https://image-net.org, which asks for an account"
        )
    try:
        torchvision_class("ImageNet")(str(data_dir), split=split)
    except (ImportError, OSError, RuntimeError) as error:  # ImportError: it needs scipy
        raise InputError(f"cannot unpack ImageNet in {data_dir}: {error}") from error


def read_part(
    dataset: str,
    part: str,
    data_dir: Path,
    *,
    num_classes: int,
    in_chans: int,
    size: tuple[int, int],
    framing: Framing = PLAIN_FRAMING,
    memory_gb: float,
    thorough: bool = False,
    allow_empty: bool = False,
    unlabelled: bool = False,
) -> Images:
    """The images of one part, with a list of the files that cannot be read.

    in_chans, size (height, width), framing: what image files are decoded to, and how they are
    fitted; sets that come as arrays keep their own. memory_gb: sets of files that fit it decoded
    (in 10**9 bytes) are decoded once, into a cache on disk that is mapped into memory; larger sets
    are decoded each time. thorough: whether the files of larger sets are decoded once to find the
    bad ones, or only their headers are read; allow_empty: whether a class may have no files;
    unlabelled: all files of a folder are taken.
    """
    if dataset == "digits":
        return _read_digits()
    if SOURCES[dataset].torchvision is not None:
        return _read_torchvision(dataset, part, data_dir)
    # ImageNet's test labels were never published: papers report the validation images
    folder = "val" if (dataset, part) == ("imagenet", "test") else part
    root = part_root(data_dir, folder)
    shape: Any = {"in_chans": in_chans, "size": size, "framing": framing}
    if unlabelled and dataset == "folder":
        images = scan_unlabelled(root, **shape)
    else:
        images = scan_class_folders(root, num_classes, allow_empty=allow_empty, **shape)
    return open_images(images, root, memory_gb=memory_gb, thorough=thorough)


def open_images(images: FileImages, root: Path, *, memory_gb: float, thorough: bool) -> Images:
    """Image files below ``root``, from the cache if they fit ``memory_gb`` decoded; checked."""
    if images.nbytes <= memory_gb * 1e9:
        return open_decoded(images, root)
    return open_checked(images, root, thorough=thorough)
