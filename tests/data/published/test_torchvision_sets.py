"""Sets that torchvision downloads: small ones in its layouts, against torchvision's own reading."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets as tv
from torchvision_layouts import WRITERS, trust_small_layouts

from vitlit.data.catalog import SOURCES
from vitlit.data.datamodule import PlainImageData
from vitlit.data.datasets import prepare_data_set, read_part
from vitlit.data.image_folder import find_class_names
from vitlit.data.published.torchvision_sets import PART_ARGUMENTS
from vitlit.errors import InputError
from vitlit.images.image_store import Images, MemoryImages

NEW_SETS = tuple(WRITERS)
PARTS = [(name, part) for name in NEW_SETS for part in SOURCES[name].parts]


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    trust_small_layouts(monkeypatch)


def write_set(root: Path, dataset: str) -> None:
    root.mkdir(exist_ok=True)
    WRITERS[dataset](root)


def read(dataset: str, part: str, root: Path) -> Images:
    count = len(find_class_names(dataset, root))
    return read_part(dataset, part, root, num_classes=count, in_chans=3, size=(16, 16), memory_gb=1)


@pytest.mark.parametrize(("dataset", "part"), PARTS)
def test_images_and_labels_are_those_that_torchvision_reads(
    tmp_path: Path, dataset: str, part: str
) -> None:
    write_set(tmp_path, dataset)
    name = str(SOURCES[dataset].torchvision)
    known: Any = getattr(tv, name)(str(tmp_path), **PART_ARGUMENTS[name][part])
    images = read(dataset, part, tmp_path)
    pixels = images.gather(torch.arange(len(images)))
    assert len(images) == len(known)
    for mine, label, (image, expected) in zip(pixels, images.labels.tolist(), known, strict=True):
        np.testing.assert_array_equal(mine.permute(1, 2, 0), np.asarray(image))
        assert label == expected


@pytest.mark.parametrize("dataset", ["eurosat", "oxford_pets", "stl10", "flowers102"])
def test_class_names_are_torchvisions(tmp_path: Path, dataset: str) -> None:
    write_set(tmp_path, dataset)
    name = str(SOURCES[dataset].torchvision)
    arguments = PART_ARGUMENTS[name][SOURCES[dataset].parts[0]]
    known = getattr(tv, name)(str(tmp_path), **arguments).classes
    assert find_class_names(dataset, tmp_path) == list(known)


def test_parts_that_lie_in_one_folder_keep_their_caches(tmp_path: Path) -> None:
    write_set(tmp_path, "flowers102")
    first = read("flowers102", "train", tmp_path)
    assert isinstance(first, MemoryImages)
    read("flowers102", "test", tmp_path)
    paths = [Path(path) for path in first.paths]
    for path in paths:  # a cache that is there needs no file's content
        content = path.stat()
        path.write_bytes(b"\0" * content.st_size)
        os.utime(path, ns=(content.st_atime_ns, content.st_mtime_ns))
    again = read("flowers102", "train", tmp_path)
    assert not again.bad
    assert torch.equal(again.gather(torch.arange(5)), first.gather(torch.arange(5)))


@pytest.mark.parametrize("dataset", NEW_SETS)
def test_a_set_on_disk_trains_without_a_download(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path, dataset)
    for module in ("eurosat", "flowers102", "oxford_iiit_pet", "stl10"):
        monkeypatch.delattr(f"torchvision.datasets.{module}.download_and_extract_archive")
    small = {"img_size": 16, "patch_size": 8, "data_dir": str(tmp_path)}
    data = PlainImageData(dataset=dataset, **small)
    data.prepare_data()
    data.setup("fit")
    assert data.num_classes == {"flowers102": 102, "oxford_pets": 37}.get(dataset, 10)
    # the others publish their test images as a part
    assert (data.test_count is not None) == (dataset == "eurosat")


@pytest.mark.parametrize("dataset", NEW_SETS)
def test_a_set_that_is_not_on_disk_is_named_with_its_folder(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(InputError, match=rf"{dataset} in .*{tmp_path.name}.*download"):
        read(dataset, SOURCES[dataset].parts[0], tmp_path)


@pytest.mark.parametrize("dataset", NEW_SETS)
def test_a_failed_download_names_the_way_out_and_leaves_no_folder(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        (tmp_path / "new" / "eurosat").mkdir(parents=True, exist_ok=True)
        raise OSError("no route")

    for module in ("eurosat", "flowers102", "oxford_iiit_pet", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", fail)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", fail)
    with pytest.raises(InputError, match=rf"{dataset} to .*new: no route.*data_dir"):
        prepare_data_set(dataset, tmp_path / "new", download=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dataset", ["svhn", "flowers102"])
def test_a_missing_scipy_is_told_with_the_way_to_get_it(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path, dataset)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InputError, match=r"pip install 'vitlit\[sets\]'"):
        read(dataset, "train", tmp_path)


def test_labels_beyond_the_known_classes_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path, "oxford_pets")
    with (tmp_path / "oxford-iiit-pet" / "annotations" / "test.txt").open("a") as file:
        file.write("Abyssinian_test1 38 1 1\n")
    with pytest.raises(InputError, match="not as published"):
        read("oxford_pets", "test", tmp_path)


@pytest.mark.parametrize("lost", ["AnnualCrop", "SeaLake", "SeaLake/SeaLake_10.jpg"])
def test_a_stopped_unpacking_of_eurosat_is_refused(tmp_path: Path, lost: str) -> None:
    write_set(tmp_path, "eurosat")
    home = tmp_path / "eurosat" / "2750"
    (home / lost).rename(tmp_path / "lost")
    with pytest.raises(
        InputError, match=r"probably stopped; remove .*2750, and give download true"
    ):
        read("eurosat", "all", tmp_path)


def test_a_folder_beside_the_classes_of_eurosat_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, "eurosat")
    (tmp_path / "eurosat" / "2750" / "Aardvark").mkdir()  # labels would be those of its neighbours
    with pytest.raises(InputError, match=r"30 images in 11 folders .Aardvark, AnnualCrop"):
        read("eurosat", "all", tmp_path)
