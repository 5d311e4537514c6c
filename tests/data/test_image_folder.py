"""Parts, classes and labels of image folders."""

from pathlib import Path

import pytest
from photo_folder import PhotoFolder
from PIL import Image

from vitlit.data.datasets import read_part
from vitlit.data.image_folder import (
    check_class_names,
    find_class_names,
    is_own_folder,
    part_names,
)
from vitlit.errors import InputError
from vitlit.images.image_store import FileImages, Images

NOWHERE = Path("nowhere")


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


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("flat", ("all",)),
        ("train", ("train",)),
        ("train+test", ("train", "test")),
        ("test+val+train", ("train", "val", "test")),
    ],
)
def test_a_folder_has_the_parts_that_it_names(
    photo_folder: PhotoFolder, layout: str, expected: tuple[str, ...]
) -> None:
    assert part_names("folder", photo_folder(layout)) == expected


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [("digits", ("all",)), ("mnist", ("train", "test")), ("imagenet", ("train", "test"))],
)
def test_known_sets_have_their_published_parts(dataset: str, expected: tuple[str, ...]) -> None:
    assert part_names(dataset, NOWHERE) == expected


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("train+valid", "folder valid, which would be ignored beside train; rename it to val"),
        ("train+val+Test", "folder Test, which would be ignored beside train; rename it to test"),
        ("training+validation", "folders training, validation; rename them to train, val"),
    ],
)
def test_parts_under_other_names_are_refused(
    photo_folder: PhotoFolder, layout: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        part_names("folder", photo_folder(layout))


def test_a_class_may_be_called_as_parts_often_are(photo_folder: PhotoFolder) -> None:
    assert part_names("folder", photo_folder(classes=("dev", "lead"))) == ("all",)


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(InputError, match=r"no folder nowhere.*data_dir"):
        part_names("folder", NOWHERE)


@pytest.mark.parametrize("layout", ["flat", "train+test"])
def test_classes_are_the_sorted_folders(photo_folder: PhotoFolder, layout: str) -> None:
    root = photo_folder(layout, classes=["dog", "Ape", "cat"])
    assert find_class_names("folder", root) == ["Ape", "cat", "dog"]


def test_images_are_labelled_by_the_order_of_their_folder(photo_folder: PhotoFolder) -> None:
    images = read("folder", "all", photo_folder(count=3), memory_gb=0)
    assert isinstance(images, FileImages)
    names = [Path(path).parent.name for path in images.paths]
    assert names == [["cat", "dog"][label] for label in images.labels.tolist()]


def test_hidden_folders_are_no_classes(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    (root / ".cache").mkdir()
    assert find_class_names("folder", root) == ["cat", "dog"]


def test_a_class_called_train_is_named_as_the_cause(photo_folder: PhotoFolder) -> None:
    root = photo_folder(classes=("bus", "car", "train"))
    with pytest.raises(InputError, match=r"train is a class beside bus, car, rename its folder"):
        find_class_names("folder", root)


def test_folders_of_images_beside_train_are_said_to_be_left_out(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    root = photo_folder("train")
    photo_folder(classes=("bus",))
    (root / "notes").mkdir()  # holds no images
    assert find_class_names("folder", root) == ["cat", "dog"]
    assert f"left out the folders bus of {root}: beside train" in caplog.text


def test_names_that_differ_in_their_unicode_form_are_said_to(photo_folder: PhotoFolder) -> None:
    root = photo_folder("train+val", classes=("caf\u00e9", "dog"))
    (root / "val" / "caf\u00e9").rename(root / "val" / "cafe\u0301")
    alike = "caf\u00e9 is written in two Unicode forms that look the same, NFC and NFD"
    with pytest.raises(InputError, match=f"train and val differ .*{alike}"):
        find_class_names("folder", root)
    (root / "val" / "cafe\u0301").rename(root / "val" / "caf\u00e9")
    with pytest.raises(InputError, match=f"not those of the model.*{alike}"):
        check_class_names(root, ["cafe\u0301", "dog"])


def test_two_classes_that_look_the_same_are_refused(photo_folder: PhotoFolder) -> None:
    root = photo_folder(classes=("caf\u00e9", "cafe\u0301"))
    with pytest.raises(InputError, match="two folders of one name; caf\u00e9 is written in two"):
        find_class_names("folder", root)


@pytest.mark.parametrize("layout", ["flat", "train", "train+val"])
def test_class_folders_are_someones_own_images(photo_folder: PhotoFolder, layout: str) -> None:
    assert is_own_folder(photo_folder(layout))


@pytest.mark.parametrize("name", ["MNIST/raw", "cifar-10-batches-py"])
def test_a_folder_of_published_sets_is_not_someones_own(
    photo_folder: PhotoFolder, name: str
) -> None:
    root = photo_folder()
    (root / name).mkdir(parents=True)
    assert not is_own_folder(root)


def test_the_folders_of_imagenet_are_not_someones_own(photo_folder: PhotoFolder) -> None:
    assert not is_own_folder(photo_folder("train+val", classes=("n01440764", "n01443537")))
    assert not is_own_folder(Path("nowhere"))


def test_links_that_lead_back_are_no_classes(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    (root / "ant").symlink_to(root)
    (root / "bee").symlink_to(root.parent)
    assert find_class_names("folder", root) == ["cat", "dog"]


def test_a_link_to_a_folder_elsewhere_is_a_class(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    (root / "dog").rename(root.parent / "elsewhere")
    (root / "dog").symlink_to(root.parent / "elsewhere")
    assert len(read("folder", "all", root)) == 8


def test_images_in_subfolders_belong_to_their_class(photo_folder: PhotoFolder) -> None:
    root = photo_folder(count=2)
    (root / "dog" / "more").mkdir()
    Image.new("RGB", (9, 9)).save(root / "dog" / "more" / "x.png")
    assert read("folder", "all", root).labels.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("part", ["val", "test"])
def test_parts_of_different_classes_are_refused(photo_folder: PhotoFolder, part: str) -> None:
    root = photo_folder("train+val+test")
    (root / part / "dog").rename(root / part / "wolf")
    with pytest.raises(InputError, match=rf"train and {part} differ .*dog, wolf"):
        find_class_names("folder", root)


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no class folders in .*put the images of each class"):
        find_class_names("folder", tmp_path)


def test_a_folder_of_shards_is_told_from_class_folders(tmp_path: Path) -> None:
    (tmp_path / "shards.json").write_text("{}")
    with pytest.raises(InputError, match="holds shards, and is read as a folder") as caught:
        find_class_names("folder", tmp_path)
    assert caught.value.arguments == ("dataset", "data_dir")


def test_a_class_without_images_is_named(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    (root / "emu").mkdir()
    with pytest.raises(InputError, match=r"no images in .* for class emu.*\.png.*add images, or "):
        read("folder", "all", root, num_classes=3)


def test_a_wrong_number_of_classes_is_refused(photo_folder: PhotoFolder) -> None:
    with pytest.raises(InputError, match="2 class folders, expected 5"):
        read("folder", "all", photo_folder(), num_classes=5)
