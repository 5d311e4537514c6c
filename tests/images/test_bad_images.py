"""Files that cannot be read, in data sets: refused with a list, or left out of every split."""

from pathlib import Path
from typing import Any

import pytest
import torch
from photo_folder import PhotoFolder

from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError
from vitlit.images.bad_images import MAX_LISTED, list_bad_images, refuse_bad_images
from vitlit.images.image_store import BadFile

pytestmark = pytest.mark.faults
STAGES = [("fit", "train"), ("fit", "val"), ("test", "test")]
LARGE = [0, 1]  # memory_gb: a set too large for memory, and a small one


def photos(root: Path, stage: str = "fit", **settings: Any) -> PlainImageData:
    data = PlainImageData(
        dataset="folder", data_dir=str(root), img_size=8, patch_size=4, **settings
    )
    data.setup(stage)
    return data


def spoil(*paths: Path) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:100])


def counts(data: PlainImageData) -> dict[str, int]:
    return {name: len(split) for name, split in data.splits.items()}


# -- the list ---------------------------------------------------------------------------------


def test_a_list_shows_the_first_files_and_the_number_of_the_others() -> None:
    bad = [BadFile(i, f"{i}.png", "empty") for i in range(MAX_LISTED + 3)]
    lines = list_bad_images("bad:", bad).splitlines()
    assert lines[1] == "  0.png: empty"
    assert lines[MAX_LISTED + 1 :] == ["  … and 3 more"]


def test_nothing_is_refused_where_nothing_is_bad() -> None:
    refuse_bad_images([], 5, "", argument="images")


def test_control_characters_of_a_name_do_not_reach_the_screen() -> None:
    assert "\x1b" not in list_bad_images("", [BadFile(0, "\x1b[2J\n.png", "empty")])


# -- refusing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_gb", LARGE)
def test_training_is_refused_with_all_bad_files_of_both_splits(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture, memory_gb: int
) -> None:
    root = photo_folder("train+val+test")
    bad = [root / "train" / "cat" / "0.png", root / "val" / "dog" / "1.jpg"]
    spoil(*bad, root / "test" / "dog" / "0.png")
    with pytest.raises(InputError, match=r"^2 of 16 images .*0\.png \(truncated\).*on_bad_image"):
        photos(root, memory_gb=memory_gb)
    found = [line.strip() for line in caplog.text.splitlines() if line.startswith("  ")]
    assert found == [f"{path}: truncated" for path in bad]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_scoring_is_refused_too(photo_folder: PhotoFolder, stage: str) -> None:
    root = photo_folder("train+val+test")
    spoil(root / "val" / "cat" / "0.png", root / "test" / "cat" / "0.png")
    with pytest.raises(InputError, match=r"^1 of 8 images cannot be read"):
        photos(root, stage)


def test_the_second_start_names_the_file_again(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    spoil(root / "cat" / "0.png")
    for _ in range(2):
        with pytest.raises(InputError, match=r"cat/0\.png \(truncated\)"):
            photos(root)


# -- leaving out ------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_gb", LARGE)
def test_bad_files_are_left_out_of_the_splits_they_are_in(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture, memory_gb: int
) -> None:
    root = photo_folder("train+val+test")
    spoil(*(root / "train" / "cat").glob("[01].*"), root / "val" / "dog" / "1.jpg")
    data = photos(root, memory_gb=memory_gb, on_bad_image="skip")
    assert counts(data) == {"train": 6, "val": 7}
    assert "(train 2 of 8, val 1 of 8)" in caplog.text


@pytest.mark.parametrize("memory_gb", LARGE)
def test_broken_pixels_are_found_before_training_too(
    photo_folder: PhotoFolder, memory_gb: int
) -> None:
    root = photo_folder("train+val")
    path = root / "train" / "cat" / "0.png"
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    data = photos(root, memory_gb=memory_gb, on_bad_image="skip")
    assert counts(data) == {"train": 7, "val": 8}


@pytest.mark.parametrize("memory_gb", LARGE)
def test_what_is_left_keeps_its_pixels_and_labels(
    photo_folder: PhotoFolder, memory_gb: int
) -> None:
    root = photo_folder("train+val")
    whole = photos(root, memory_gb=memory_gb).splits["train"]
    good = torch.tensor([0, 2, 3, 4, 6, 7])
    before = whole.images.gather(good).clone()
    spoil(root / "train" / "cat" / "1.jpg", root / "train" / "dog" / "1.jpg")
    left = photos(root, memory_gb=memory_gb, on_bad_image="skip").splits["train"]
    assert torch.equal(left.images.gather(left.members), before)
    assert torch.equal(left.labels, whole.labels[good])


def test_a_bad_file_moves_no_image_to_another_split(photo_folder: PhotoFolder) -> None:
    root = photo_folder(count=12)
    before = [set(photos(root, stage).splits[name].members.tolist()) for stage, name in STAGES]
    spoil(root / "cat" / "1.jpg", root / "cat" / "2.png", root / "dog" / "4.png")
    after = [
        set(photos(root, stage, on_bad_image="skip").splits[name].members.tolist())
        for stage, name in STAGES
    ]
    bad = {1, 4, 18}  # among the names in order: 0, 1, 10, 11, 2, …
    assert [old - bad for old in before] == after


def test_a_class_of_bad_files_alone_is_refused(photo_folder: PhotoFolder) -> None:
    root = photo_folder("train+val")
    spoil(*(root / "train" / "dog").iterdir())
    with pytest.raises(InputError, match=r"class dog .* train split"):
        photos(root, on_bad_image="skip")


def test_a_split_of_bad_files_alone_is_refused(photo_folder: PhotoFolder) -> None:
    root = photo_folder("train+val")
    spoil(*(root / "val").glob("*/*"))
    with pytest.raises(InputError, match="can be read in the val split"):
        photos(root, on_bad_image="skip")


@pytest.mark.parametrize("how", ["refuse", "skip"])
def test_sound_sets_are_opened_without_a_word(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    photos(photo_folder("train+val"), on_bad_image=how)
    assert caplog.records == []


# -- predicting -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows_of_bad_files_are_not_valid_and_say_why(
    photo_folder: PhotoFolder, num_workers: int
) -> None:
    root = photo_folder()
    spoil(root / "cat" / "1.jpg")
    data = photos(root, "predict", images=[str(root)], batch_size=4, num_workers=num_workers)
    first, second = data.predict_dataloader()
    assert first.valid.tolist() == [True, False, True, True]
    assert [tuple(pair) for pair in first.bad] == [(1, "truncated")]
    assert second.valid.all()
