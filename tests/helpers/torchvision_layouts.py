"""Small data sets of noise in the layouts that torchvision's classes read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from vitlit.data.catalog import SOURCES

RNG = np.random.default_rng(0)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")  # whatever its name says: no pixel is lost


def write_svhn(root: Path) -> None:
    for part, count in (("train", 20), ("test", 4)):
        pixels = RNG.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = np.arange(count)[:, None] % 10 + 1  # 10 stands for the digit 0
        savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": labels})


def write_stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for part, count in (("train", 8), ("test", 2)):
        RNG.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        (np.arange(count, dtype=np.uint8) // 2 + 1).tofile(folder / f"{part}_y.bin")
    (folder / "unlabeled_X.bin").touch()
    (folder / "fold_indices.txt").touch()
    (folder / "class_names.txt").write_text("\n".join(SOURCES["stl10"].class_names))


EUROSAT_NUMBERS = (1, 2, 10)  # of the images of each class


def write_eurosat(root: Path) -> None:
    for name in SOURCES["eurosat"].class_names:
        for number in EUROSAT_NUMBERS:
            picture(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg")


def write_flowers102(root: Path) -> None:
    folder = root / "flowers-102"
    for number in range(1, 13):
        picture(folder / "jpg" / f"image_{number:05d}.jpg")
    labels = RNG.permutation(102)[:12] + 1
    savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    sets = {"trnid": [[3, 1, 7, 5, 4]], "valid": [[2, 12]], "tstid": [[6, 8, 9, 10, 11]]}
    savemat(folder / "setid.mat", {name: np.array(ids, np.uint16) for name, ids in sets.items()})


def write_oxford_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    names = [name.replace(" ", "_") for name in SOURCES["oxford_pets"].class_names]
    (folder / "annotations").mkdir(parents=True)
    for part in ("trainval", "test"):
        lines = [
            f"{name}_{part}{number} {label} 1 1"
            for label, name in enumerate(names, start=1)
            for number in range(2)
        ]
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            picture(folder / "images" / f"{line.split()[0]}.jpg")


WRITERS: dict[str, Callable[[Path], None]] = {
    "svhn": write_svhn,
    "stl10": write_stl10,
    "eurosat": write_eurosat,
    "flowers102": write_flowers102,
    "oxford_pets": write_oxford_pets,
}


def trust_small_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision and us take files and numbers of images that are not the published ones."""
    count = len(SOURCES["eurosat"].class_names) * len(EUROSAT_NUMBERS)
    monkeypatch.setattr("vitlit.data.published.torchvision_sets.EUROSAT_IMAGES", count)

    def is_there(path: str, md5: str | None = None) -> bool:
        return Path(path).is_file()

    for module in ("svhn", "stl10", "flowers102"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", is_there)
    # this one compares checksums by itself
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", lambda *args: None)
