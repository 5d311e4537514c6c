"""The table of data sets: where their images and labels are on disk, and what they are.

data set, part -> images that ``gather(indices (B,))`` -> uint8 (B, C, h, w), labels int64 (n,)

A part is what the data set itself provides: ``train``, ``val``, ``test``, or ``all`` where nobody
published a division. How parts become splits is the DataModule's business.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets as tv

from vitlit.data.catalog import SOURCES
from vitlit.data.image_folder import _part_root, _scan
from vitlit.errors import InputError, find_text
from vitlit.images.decode_cache import open_checked, open_decoded
from vitlit.images.image_store import FileImages, Images, MemoryImages


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
