"""Reading data sets: downloading them, and opening the images of their parts.

data set, part -> Images: gather(indices (B,)) -> uint8 (B, C, h, w), labels int64 (n,)

A part is what the data set itself provides: ``train``, ``val``, ``test``, or ``all`` if no division
was published. ``split_builder`` turns parts into splits.
"""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitlit.data.catalog import SOURCES, is_file_set, source_of
from vitlit.data.image_folder import part_root, scan_class_folders, scan_unlabelled
from vitlit.data.published.hub_name import is_hub, parse_hub_name
from vitlit.data.published.hub_sets import unpack
from vitlit.data.published.preparing import preparing
from vitlit.data.published.torchvision_sets import (
    download_set,
    list_files,
    read_arrays,
    torchvision_class,
)
from vitlit.data.shards.shard_images import open_part
from vitlit.data.shards.shard_list import find_shards
from vitlit.errors import InputError, first_few
from vitlit.images.decode_cache import open_checked, open_decoded
from vitlit.images.framing import PLAIN_FRAMING, Framing
from vitlit.images.image_store import FileImages, Images, MemoryImages
from vitlit.messages import counted

# What lies in train or val while it is unpacked: the tar file of a class, or an image of val.
IMAGENET_PIECE = re.compile(r"n\d{8}\.tar|ILSVRC2012_val_\d{8}\.JPEG")
HubColumns = tuple[str | None, str | None]  # of images and labels, as asked for


def _read_digits() -> MemoryImages:
    """The 1,797 digits shipped with the package; values 0..16 are scaled to 0..255."""
    with (
        (files("vitlit.data") / "digits" / "digits.npz").open("rb") as file,
        np.load(file) as arrays,
    ):
        images, labels = arrays["images"], arrays["labels"]
    pixels = np.round(images.astype(np.float64) * (255 / 16)).astype(np.uint8)
    return MemoryImages(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels))


def locate(
    dataset: str,
    data_dir: Path,
    columns: HubColumns,
    *,
    is_read: bool,
    has_names: bool,
    **how: bool,
) -> tuple[str, Path]:
    """The name and the folder of a data set; those of the hub have a folder for each revision.

    columns: of images and labels, None to find them; is_read: whether its images are read;
    has_names: whether the class names are known. One of the hub is unpacked if its class names or
    its revision must be found, and otherwise not before it is read. how: that of ``unpack``.
    """
    if not (is_hub(dataset) and is_read):
        return dataset, data_dir
    name = parse_hub_name(dataset, *columns).in_folder(data_dir)
    if name.revision and has_names:
        folder = name.folder(data_dir)
    else:
        folder = unpack(name, data_dir, **how)
        name = name.in_folder(folder)
    return str(name), folder


def prepare_data_set(
    dataset: str, data_dir: Path, columns: HubColumns = (None, None), *, download: bool
) -> None:
    """Download or unpack what is missing on disk; one process of each machine calls it.

    Several jobs and machines may share the folder, so each waits for the one before.
    """
    if is_hub(dataset):
        name = parse_hub_name(dataset, *columns).in_folder(data_dir)
        unpack(name, data_dir, download=download)
        return
    source = SOURCES[dataset].torchvision
    if dataset == "imagenet":
        with preparing(dataset, data_dir):
            for split in ("train", "val"):
                if not (data_dir / split).is_dir():
                    _unpack_imagenet(data_dir, split)
    elif source is not None and download:
        with preparing(dataset, data_dir):
            download_set(dataset, source, data_dir)


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


def _check_unpacked(root: Path, count: int) -> None:
    """Raise InputError for a part of ImageNet that lacks some of its ``count`` folders.

    Nor may there be what torchvision moves into these folders, or unpacks to them, one by one.
    """
    found = list(root.iterdir()) if root.is_dir() else []
    folders = sum(path.is_dir() for path in found)
    left = [path.name for path in found if IMAGENET_PIECE.fullmatch(path.name)]
    if left or folders < count:
        beside = f" beside {first_few(sorted(left))}" if left else ""
        raise InputError(
            f"{root} has {counted(folders, 'class folder')} of {count}{beside}, so its unpacking "
            f"was probably stopped; remove {root}, and it is unpacked anew from "
            f"ILSVRC2012_img_{root.name}.tar"
        )


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
    name = source_of(dataset).torchvision
    if name is not None and not is_file_set(dataset):
        return read_arrays(dataset, name, part, data_dir)
    shape: Any = {"in_chans": in_chans, "size": size, "framing": framing}
    how: Any = {"memory_gb": memory_gb, "thorough": thorough}
    if name is not None or is_hub(dataset):
        listed = list_files(dataset, part, data_dir, num_classes)
        files = FileImages(listed.paths, listed.labels, **shape)
        return open_images(files, listed.root, part=part, **how)
    # ImageNet's test labels were never published: papers report the validation images
    folder = "val" if (dataset, part) == ("imagenet", "test") else part
    root = part_root(data_dir, folder)
    if unlabelled and dataset == "folder":
        images = scan_unlabelled(root, **shape)
    else:
        if dataset == "imagenet":
            _check_unpacked(root, num_classes)
        images = scan_class_folders(root, num_classes, allow_empty=allow_empty, **shape)
    return open_images(images, root, **how)


def open_shards(
    part: str,
    data_dir: Path,
    class_names: list[str] | None,
    *,
    in_chans: int,
    size: tuple[int, int],
    framing: Framing,
    thorough: bool,
) -> Images:
    """The images of one part of a set of shards; class_names: None if no labels are read.

    They are decoded each time, however few they are: shards are for sets that fit no memory.
    """
    shape: Any = {"in_chans": in_chans, "size": size, "framing": framing}
    images = open_part(find_shards(data_dir), part, class_names, **shape)
    # their indexes tell which images have no sound header; decoding finds the others
    return open_checked(images, data_dir, thorough=True) if thorough else images


def open_images(
    images: FileImages, root: Path, *, memory_gb: float, thorough: bool, part: str = ""
) -> Images:
    """Image files below ``root``, from the cache if they fit ``memory_gb`` decoded; checked.

    part: tells parts apart that lie in one folder.
    """
    if images.nbytes <= memory_gb * 1e9:
        return open_decoded(images, root, part=part)
    return open_checked(images, root, part=part, thorough=thorough)
