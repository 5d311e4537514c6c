"""The table of data sets: names and statistics."""

from pathlib import Path

import pytest
from sklearn.datasets import load_digits
from timm.data import ImageNetInfo
from torchvision import datasets as tv

from vitlit.data.catalog import SOURCES
from vitlit.data.csv_labels import names_of_classes
from vitlit.data.image_folder import find_class_names
from vitlit.errors import InputError

NOWHERE = Path("nowhere")


def test_the_tables_statistics_of_digits_are_those_of_their_pixels() -> None:
    pixels = load_digits().images / 16
    row = SOURCES["digits"]
    assert (*row.mean, *row.std) == pytest.approx((pixels.mean(), pixels.std()), abs=1e-3)


def test_fashion_names_are_torchvisions() -> None:
    assert find_class_names("fashion_mnist", NOWHERE) == tv.FashionMNIST.classes


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_digits_are_named_by_their_figures(dataset: str) -> None:
    assert find_class_names(dataset, NOWHERE) == [name[0] for name in tv.MNIST.classes]


@pytest.mark.parametrize(("dataset", "count"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_names_are_in_alphabetical_order(dataset: str, count: int) -> None:
    names = find_class_names(dataset, NOWHERE)
    assert names == sorted(set(names))
    assert len(names) == count


def test_imagenet_names_follow_timms_order() -> None:
    names = find_class_names("imagenet", NOWHERE)
    info = ImageNetInfo()
    first = [info.index_to_description(label).split(",")[0] for label in range(1000)]
    pairs = zip(names, first, strict=True)
    assert all(name.lower().startswith(known.lower()) for name, known in pairs)


def test_of_several_classes_for_each_image_there_may_be_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    labels = tmp_path / "labels.csv"
    labels.write_text("file,classes\na.png,tumour\n")
    given = ("folder", tmp_path, labels, None)
    assert names_of_classes(*given, "multi_label") == ["tumour"]
    labels.write_text("file,class\na.png,tumour\n")
    with pytest.raises(InputError, match="has one class, tumour, and a classifier needs two"):
        names_of_classes(*given)
