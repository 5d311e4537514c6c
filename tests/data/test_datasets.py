"""Readers against the files they read: scikit-learn's digits, torchvision's layouts, folders."""

import pickle
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from photo_folder import PhotoFolder
from sklearn.datasets import load_digits
from torchvision import datasets as tv

from vitlit.data.catalog import SOURCES
from vitlit.data.datasets import prepare_data_set, read_part
from vitlit.data.published.torchvision_sets import torchvision_class
from vitlit.errors import InputError
from vitlit.images.image_store import FileImages, Images, MemoryImages

NOWHERE = Path("nowhere")
MNISTS = pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
CIFARS = pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
PARTS = pytest.mark.parametrize("part", ["train", "test"])


def read(
    dataset: str,
    part: str,
    data_dir: Path,
    *,
    num_classes: int = 2,
    in_chans: int = 3,
    size: tuple[int, int] = (8, 8),
    memory_gb: float = 1.0,
) -> Images:
    return read_part(
        dataset,
        part,
        data_dir,
        num_classes=num_classes,
        in_chans=in_chans,
        size=size,
        memory_gb=memory_gb,
    )


def everything(images: Images) -> torch.Tensor:
    return images.gather(torch.arange(len(images)))


# -- digits -----------------------------------------------------------------------------------


def test_digits_have_scikit_learns_pixels() -> None:
    pixels = everything(read("digits", "all", NOWHERE))[:, 0].numpy()
    np.testing.assert_array_equal(np.round(pixels / 255 * 16), load_digits().images)


def test_digits_have_scikit_learns_labels() -> None:
    labels = read("digits", "all", NOWHERE).labels
    np.testing.assert_array_equal(labels, load_digits().target)


# -- sets in torchvision's layouts ------------------------------------------------------------


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """The format of MNIST: a magic number, the big-endian shape, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 | values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


def make_mnist(root: Path, dataset: str) -> dict[str, tuple[Any, Any]]:
    """Write a small set; returns its pixels (n, 28, 28) and labels by part."""
    rng = np.random.default_rng(0)
    folder = root / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[dataset] / "raw"
    made = {}
    for part, prefix, count in (("train", "train", 12), ("test", "t10k", 5)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
        made[part] = pixels, labels
    return made


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision take CIFAR files whose checksums are not the published ones."""

    def is_there(path: str, md5: str | None = None) -> bool:
        return Path(path).is_file()

    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", is_there)


def make_cifar(root: Path, dataset: str) -> dict[str, tuple[Any, Any]]:
    """Write a small set; returns its pixels (n, 3, 32, 32) and labels by part."""
    kind = {"cifar10": tv.CIFAR10, "cifar100": tv.CIFAR100}[dataset]
    label_key = "labels" if dataset == "cifar10" else "fine_labels"
    rng = np.random.default_rng(0)
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    made = {}
    for part, files in (("train", kind.train_list), ("test", kind.test_list)):
        shape = (len(files), 4, 3, 32, 32)  # four images in each file
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        labels = rng.integers(0, 10, shape[:2])
        for (name, _), some, which in zip(files, pixels, labels, strict=True):
            entry = {"data": some.reshape(4, -1), label_key: which.tolist()}
            (folder / name).write_bytes(pickle.dumps(entry))
        made[part] = pixels.reshape(-1, 3, 32, 32), labels.ravel()
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: []}))
    return made


@MNISTS
@PARTS
def test_mnists_are_read_as_they_are_on_disk(tmp_path: Path, dataset: str, part: str) -> None:
    pixels, labels = make_mnist(tmp_path, dataset)[part]
    images = read(dataset, part, tmp_path)
    np.testing.assert_array_equal(everything(images), pixels[:, None])
    np.testing.assert_array_equal(images.labels, labels)


@pytest.mark.usefixtures("unchecked")
@CIFARS
@PARTS
def test_cifars_are_read_as_they_are_on_disk(tmp_path: Path, dataset: str, part: str) -> None:
    pixels, labels = make_cifar(tmp_path, dataset)[part]
    images = read(dataset, part, tmp_path)
    np.testing.assert_array_equal(everything(images), pixels)
    np.testing.assert_array_equal(images.labels, labels)


@MNISTS
def test_a_set_that_is_on_disk_is_not_downloaded(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_mnist(tmp_path, dataset)
    monkeypatch.delattr("torchvision.datasets.mnist.download_and_extract_archive")
    prepare_data_set(dataset, tmp_path, download=True)


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("checksum")])
@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_a_failed_download_names_the_folder_and_the_way_out(
    tmp_path: Path, dataset: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"

    def fail(self: Any) -> None:
        if "mnist" in dataset:  # torchvision makes the folders first
            Path(self.raw_folder).mkdir(parents=True)
        raise error

    kind = torchvision_class(str(SOURCES[dataset].torchvision))
    monkeypatch.setattr(kind, "download", fail)
    with pytest.raises(InputError, match=rf"{dataset} to .*{folder.name}.*data_dir"):
        prepare_data_set(dataset, folder, download=True)
    assert list(tmp_path.iterdir()) == []
    (folder / "mine" / "raw").mkdir(parents=True)
    (folder / "mine" / "raw" / "file").touch()
    with pytest.raises(InputError, match=rf"{dataset} to .*{folder.name}.*data_dir"):
        prepare_data_set(dataset, folder, download=True)
    assert [path.name for path in folder.rglob("*")] == ["mine", "raw", "file"]


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_without_download_nothing_is_fetched(tmp_path: Path, dataset: str) -> None:
    prepare_data_set(dataset, tmp_path, download=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_a_set_that_is_not_on_disk_is_named_with_its_folder(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(InputError, match=rf"{dataset} in .*{tmp_path.name}"):
        read(dataset, "train", tmp_path)


@pytest.mark.parametrize("kept", [0, 6, 16, 1000])
def test_a_set_cut_short_is_named_with_its_folder(tmp_path: Path, kept: int) -> None:
    make_mnist(tmp_path, "mnist")
    (path,) = tmp_path.rglob("train-images-idx3-ubyte")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=rf"mnist in .*{tmp_path.name}"):
        read("mnist", "train", tmp_path)


# -- class names ------------------------------------------------------------------------------


# -- folders ----------------------------------------------------------------------------------


def test_decoded_files_have_the_asked_channels_and_size(photo_folder: PhotoFolder) -> None:
    images = read("folder", "all", photo_folder(), in_chans=1, size=(6, 9))
    assert everything(images).shape == (8, 1, 6, 9)


@pytest.mark.parametrize(
    ("spare", "expected"), [(0, MemoryImages), (-1, FileImages)], ids=["fits", "too large"]
)
def test_files_are_held_in_memory_where_they_fit(
    photo_folder: PhotoFolder, spare: int, expected: type
) -> None:
    needed = 8 * 3 * 8 * 8  # bytes of 8 images of 3x8x8
    images = read("folder", "all", photo_folder(), memory_gb=(needed + spare) / 1e9)
    assert type(images) is expected


@pytest.mark.parametrize("memory_gb", [0, 1])
def test_an_unreadable_file_is_listed(photo_folder: PhotoFolder, memory_gb: int) -> None:
    root = photo_folder()
    (root / "dog" / "2.png").write_bytes(b"broken")
    images = read("folder", "all", root, memory_gb=memory_gb)
    assert [file.path for file in images.bad] == [str(root / "dog" / "2.png")]


# -- ImageNet ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "folder"), [("train", "train"), ("test", "val")])
def test_imagenets_validation_images_are_its_test_part(
    photo_folder: PhotoFolder, part: str, folder: str
) -> None:
    root = photo_folder("train+val")
    images = read("imagenet", part, root, memory_gb=0)
    assert isinstance(images, FileImages)
    assert {Path(path).relative_to(root).parts[0] for path in images.paths} == {folder}


@pytest.mark.parametrize(
    ("part", "piece"),
    [("train", "n01440764.tar"), ("test", "ILSVRC2012_val_00000001.JPEG")],
)
def test_a_stopped_unpacking_of_imagenet_is_refused(
    photo_folder: PhotoFolder, part: str, piece: str
) -> None:
    root = photo_folder("train+val")
    folder = root / ("val" if part == "test" else part)
    with pytest.raises(InputError, match=rf"has 2 class folders of 3, .*; remove .*{folder.name}"):
        read("imagenet", part, root, num_classes=3, memory_gb=0)
    (folder / piece).touch()  # all folders are there, and the last is not full
    with pytest.raises(InputError, match=rf"2 class folders of 2 beside {piece}, .*remove .*tar"):
        read("imagenet", part, root, memory_gb=0)


def test_imagenet_that_is_unpacked_needs_no_preparation(photo_folder: PhotoFolder) -> None:
    prepare_data_set("imagenet", photo_folder("train+val"), download=True)


@pytest.mark.parametrize("layout", ["flat", "train"])
def test_missing_imagenet_is_named_with_its_home(photo_folder: PhotoFolder, layout: str) -> None:
    root = photo_folder(layout)
    with pytest.raises(InputError, match=rf"no ImageNet in .*{root.name}.*image-net\.org"):
        prepare_data_set("imagenet", root, download=True)
