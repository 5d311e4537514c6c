"""Data sets that torchvision downloads: its arrays, and the image files of its layouts.

class of torchvision, part -> uint8 (n, C, h, w), labels (n,), or paths, labels (n,)
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.data.catalog import EUROSAT_NAMES
from vitlit.data.published.hub_name import is_hub
from vitlit.data.published.index import read_files
from vitlit.errors import InputError, find_text, first_few
from vitlit.images.image_store import MemoryImages

# The arguments of each class that name its parts, for the parts that it has.
_BY_TRAIN: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
PART_ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"), _BY_TRAIN),
    **dict.fromkeys(("SVHN", "STL10"), _BY_SPLIT),
    "Flowers102": _BY_SPLIT | {"val": {"split": "val"}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "EuroSAT": {"all": {}},
}
EUROSAT_IMAGES = 27_000
FLOWERS_PARTS = {"train": "trnid", "val": "valid", "test": "tstid"}  # in setid.mat


class FileList(NamedTuple):
    """Image files of a part: paths, labels int64 ``(n,)``, and the folder that holds them all."""

    paths: list[str]
    labels: Tensor
    root: Path


def torchvision_class(name: str) -> Any:
    """A class of torchvision.datasets."""
    # Imported where it is used: it takes as long as torch, and most sets are read without it.
    from torchvision import datasets

    return getattr(datasets, name)


def _needs_scipy(dataset: str) -> InputError:
    return InputError(
        f"{dataset} comes in files of MATLAB, which scipy reads, and scipy is not installed; run "
        f"pip install 'vitlit[sets]'",
        argument="dataset",
    )


def read_arrays(dataset: str, name: str, part: str, data_dir: Path) -> MemoryImages:
    """The images of a part that torchvision reads into one array. name: of its class."""
    try:
        source = torchvision_class(name)(str(data_dir), **PART_ARGUMENTS[name][part])
    except ImportError as error:
        raise _needs_scipy(dataset) from error
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
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    labels = source.targets if hasattr(source, "targets") else source.labels
    return MemoryImages(pixels, torch.as_tensor(labels))


def download_set(dataset: str, name: str, data_dir: Path) -> None:
    """Download what is missing of all parts: the other commands must not need the network."""
    try:
        for arguments in PART_ARGUMENTS[name].values():
            torchvision_class(name)(str(data_dir), **arguments, download=True)
    except ImportError as error:
        raise _needs_scipy(dataset) from error
    except (OSError, RuntimeError) as error:
        _remove_empty_folders(data_dir)
        raise InputError(
            f"cannot download {dataset} to {data_dir}: {' '.join(str(error).split())}; "
            f"give data_dir the folder of a copy from elsewhere",
            argument="data_dir",
        ) from error


def _remove_empty_folders(data_dir: Path) -> None:
    """Remove the folders that torchvision made for a download that failed."""
    made = [path for path in data_dir.glob("*/raw") if path.is_dir()]
    homes = [data_dir / name for name in ("flowers-102", "oxford-iiit-pet", "eurosat")]
    for folder in [*made, *(path.parent for path in made), *homes]:
        with suppress(OSError):  # it holds something, or is not there
            folder.rmdir()


def list_files(dataset: str, part: str, data_dir: Path, num_classes: int) -> FileList:
    """The image files of a part of a set that is published as files.

    Raises InputError if its lists are missing or broken, or have other than the known classes.
    """
    if is_hub(dataset):
        return FileList(*read_files(data_dir, part), data_dir)
    try:
        found = LAYOUTS[dataset](part, data_dir)
    except ImportError as error:
        raise _needs_scipy(dataset) from error
    except InputError:
        raise
    except Exception as error:  # scipy raises many types for files that were truncated
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot read {dataset} in {data_dir}: {reason}; remove its files there, and give "
            f"download true",
            argument="download",
        ) from error
    if not found.paths or not 0 <= int(found.labels.min()) <= int(found.labels.max()) < num_classes:
        raise InputError(
            f"{dataset} in {data_dir} is not as published: its {len(found.paths)} images of {part} "
            f"are of other classes than the {num_classes}; remove its files, and give download "
            f"true",
            argument="download",
        )
    return found


def _flowers(part: str, data_dir: Path) -> FileList:
    from scipy.io import loadmat

    home = data_dir / "flowers-102"
    numbers = loadmat(home / "setid.mat", squeeze_me=True)[FLOWERS_PARTS[part]]
    classes = loadmat(home / "imagelabels.mat", squeeze_me=True)["labels"]  # from 1, in order
    numbers = torch.as_tensor(numbers.astype("int64")).flatten()
    labels = torch.as_tensor(classes.astype("int64"))[numbers - 1] - 1
    paths = [str(home / "jpg" / f"image_{number:05d}.jpg") for number in numbers.tolist()]
    return FileList(paths, labels, home / "jpg")


def _pets(part: str, data_dir: Path) -> FileList:
    home = data_dir / "oxford-iiit-pet"
    name = PART_ARGUMENTS["OxfordIIITPet"][part]["split"]
    text = (home / "annotations" / f"{name}.txt").read_text(encoding="utf-8")
    # name, class from 1, cat or dog, breed within these
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    labels = torch.tensor([int(row[1]) - 1 for row in rows], dtype=torch.long)
    return FileList(
        [str(home / "images" / f"{row[0]}.jpg") for row in rows], labels, home / "images"
    )


def _eurosat(part: str, data_dir: Path) -> FileList:
    home = data_dir / "eurosat" / "2750"
    folders = sorted(path for path in home.iterdir() if path.is_dir())
    found = [sorted(map(str, folder.glob("*.jpg"))) for folder in folders]
    counts = torch.tensor([len(paths) for paths in found])
    names = tuple(folder.name for folder in folders)
    # torchvision takes any folder for the whole set, and labels are places in the names
    if names != EUROSAT_NAMES or counts.sum() != EUROSAT_IMAGES:
        raise InputError(
            f"{home} is not EuroSAT as published: it has {int(counts.sum()):,} images in "
            f"{len(names)} folders ({first_few(names)}), and not {EUROSAT_IMAGES:,} in "
            f"{len(EUROSAT_NAMES)} ({first_few(EUROSAT_NAMES)}), so its unpacking was probably "
            f"stopped; remove {home}, and give download true",
            argument="download",
        )
    labels = torch.arange(len(folders)).repeat_interleave(counts)
    return FileList([path for paths in found for path in paths], labels, home)


LAYOUTS: dict[str, Callable[[str, Path], FileList]] = {
    "flowers102": _flowers,
    "oxford_pets": _pets,
    "eurosat": _eurosat,
}
