"""Small data sets of noise in the layouts of the real ones, for tests without a network."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets as tv
from torchvision_layouts import WRITERS, trust_small_layouts

from vitlit.data.catalog import CIFAR10_NAMES, CIFAR100_NAMES

COUNT = 200  # images of each part


def idx(array: np.ndarray) -> bytes:
    """An array in the IDX format of MNIST's files."""
    sizes = np.array(array.shape, dtype=">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, folder: str) -> None:
    rng = np.random.default_rng(0)
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (COUNT, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(COUNT) % 10))


def write_cifar(root: Path, kind: type[tv.CIFAR10], names: tuple[str, ...], key: str) -> None:
    rng = np.random.default_rng(0)
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    for name, _ in [*kind.train_list, *kind.test_list]:
        labels = (np.arange(COUNT) % len(names)).tolist()
        batch = {"data": rng.integers(0, 256, (COUNT, 3072), np.uint8), f"{key}s": labels}
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = {kind.meta["key"]: list(names)}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))


def write_imagenet(root: Path) -> None:
    for part in ("train", "val"):
        for label in range(1000):
            folder = root / part / f"n{label:08}"
            folder.mkdir(parents=True)
            for number in range(2 if part == "train" else 1):
                Image.new("RGB", (8, 8), (label % 256, number, 0)).save(folder / f"{number}.png")


def write_all(root: Path) -> None:
    """Every data set that has files, below one folder."""
    write_mnist(root, "MNIST")
    write_mnist(root, "FashionMNIST")
    write_cifar(root, tv.CIFAR10, CIFAR10_NAMES, "label")
    write_cifar(root, tv.CIFAR100, CIFAR100_NAMES, "fine_label")
    write_imagenet(root)
    for write in WRITERS.values():
        write(root)


def trust_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision read files whose checksums are not the published ones."""
    trust_small_layouts(monkeypatch)
    monkeypatch.setattr(tv.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
