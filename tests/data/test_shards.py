"""Shards as a data set: the splits, records and batches of the folder that they were made from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from photo_folder import PhotoFolder
from shard_sets import opened, pixels_by_name, png, shard, write_foreign, write_tar

from vitlit import ImageData
from vitlit.__main__ import main
from vitlit.data.leakage import PastTraining, data_identity
from vitlit.data.splits import found_files
from vitlit.errors import InputError

SMALL: dict[str, Any] = {"img_size": [12, 16], "patch_size": 4, "num_workers": 0, "memory_gb": 0.0}


def data_of(place: Path, stage: str = "fit", **options: Any) -> ImageData:
    dataset = "folder" if (place / "cat").exists() or (place / "train").exists() else "shards"
    data = ImageData(dataset=dataset, data_dir=str(place), **SMALL | options)
    data.setup(stage)
    return data


def inside(data: ImageData, name: str) -> set[str]:
    """The images of a split, by class and file."""
    split = data.splits[name]
    return {"/".join(Path(path).parts[-2:]) for path in split.files(torch.arange(len(split)))}


@pytest.mark.parametrize("layout", ["flat", "train", "train+val+test"])
def test_the_splits_are_those_of_the_folder(
    photo_folder: PhotoFolder, tmp_path: Path, layout: str
) -> None:
    root = photo_folder(layout, count=15, size=(4, 4))
    place = shard(root, tmp_path / "s", "--images=9")
    for stage, names in (("fit", ("train", "val")), ("test", ("test",))):
        if layout == "train" and stage == "test":
            continue
        folder, shards = data_of(root, stage), data_of(place, stage)
        for name in names:
            assert inside(folder, name) == inside(shards, name)
            assert len(folder.splits[name]) == len(shards.splits[name])


def test_the_record_is_that_of_the_folder(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder(count=15, size=(4, 4))
    folder, shards = data_of(root), data_of(shard(root, tmp_path / "s", "--images=9"))
    one, two = folder.state_dict(), shards.state_dict()
    assert one.keys() == two.keys()
    for name in one:
        assert sorted(one[name].tolist()) == sorted(two[name].tolist())


def test_what_a_training_on_the_folder_used_is_not_scored(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    root = photo_folder(count=15, size=(4, 4))
    folder = data_of(root)
    place = shard(root, tmp_path / "s")
    shards = ImageData(dataset="shards", data_dir=str(place), **SMALL, split_seed=5)
    shards.hold_to(PastTraining(folder.hparams, folder.state_dict()))
    shards.setup("test")
    assert inside(shards, "test")
    assert not inside(shards, "test") & inside(folder, "train")


def batches(data: ImageData) -> list[Any]:
    return list(data.train_dataloader())


def test_batches_are_the_same_for_any_number_of_processes(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    place = shard(photo_folder(count=9), tmp_path / "s", "--images=4")
    how = {"batch_size": 4, "shuffle_shards": 2}
    one, two = (batches(data_of(place, num_workers=number, **how)) for number in (0, 2))
    assert len(one) == len(two) > 1
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.sample, second.sample)


def test_a_mixing_of_shards_without_shards_is_told(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    photos = str(photo_folder(count=9))
    for asked, is_told in ((16, False), (2, True)):
        data = ImageData(
            dataset="folder", data_dir=photos, img_size=16, patch_size=8,
            num_workers=0, shuffle_shards=asked,
        )  # fmt: skip
        data.setup("fit")
        data.train_dataloader()
        assert ("shuffle_shards 2 has no effect" in caplog.text) == is_told


def test_a_batch_holds_the_images_that_it_says(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    place = shard(photo_folder("train+val", count=6), tmp_path / "s", "--images=5")
    data = data_of(place, "validate", batch_size=5)
    split = data.splits["val"]
    expected = pixels_by_name(opened(place, "val"))
    rows = 0
    for batch in data.val_dataloader():
        names = split.files(batch.sample)
        for row, name in enumerate(names):
            key = "/".join(Path(name).parts[-2:])
            assert torch.equal(batch.x[row], expected[key])
            assert data.class_names[int(batch.y[row])] == key.split("/")[0]
            rows += 1
    assert rows == 12


def test_bad_images_are_refused_or_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = write_foreign(tmp_path / "s", count=20)
    write_tar(place / "bad.tar", {"x.png": b"no image", "x.cls": b"0"})
    with pytest.raises(InputError, match=r"1 of 41 images cannot be read, the first is .*x\.png"):
        data_of(place)
    data = data_of(place, on_bad_image="skip", val_fraction=0.3)
    assert "left out images that cannot be read" in caplog.text
    assert sum(map(len, data.splits.values())) < 41


def test_pretraining_needs_no_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "s" / "a.tar", {f"{i}.png": png(i) for i in range(12)})
    data = data_of(tmp_path / "s", unlabelled=True)
    assert data.class_names == ["image"]
    assert data.splits["train"].labels.unique().tolist() == [0]


def test_files_to_predict_may_be_shards(tmp_path: Path) -> None:
    place = write_foreign(tmp_path / "s")
    found = found_files([str(place)], 3, (12, 16))
    assert [Path(path).name for path in found.paths][:2] == ["0-0.png", "0-1.png"]
    assert len(found) == 10


def test_a_url_is_the_same_place_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"dataset": "shards", "data_dir": "https://host/a", "labels": None}
    here = data_identity(settings)
    monkeypatch.chdir(tmp_path)
    assert data_identity(settings) == here == ("shards", "https://host/a")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_names": ["cat", "fox"]}, "only the shards have dog; only the model has fox"),
        ({"shuffle_shards": 0}, "shuffle_shards 0 is too small"),
        ({"labels": "a.csv"}, "labels a.csv needs dataset folder"),
        ({"split": "val"}, "has no shards of train, only of test"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    photo_folder: PhotoFolder, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    place = shard(photo_folder(), tmp_path / "s")
    if "split" in options:
        place = write_foreign(tmp_path / "t", name="test")
    with pytest.raises(InputError, match=words):
        data_of(place, **options)


def test_inspect_sends_shards_back_to_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_foreign(tmp_path / "s")
    assert main(["inspect", "--data.dataset=shards", f"--data.data_dir={place}"]) == 2
    assert "inspect the folder that they were written from" in capsys.readouterr().err
