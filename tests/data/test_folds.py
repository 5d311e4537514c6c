"""Folds: every image is in the test split of one of them, and each class is spread evenly."""

from pathlib import Path

import pytest
import torch
from photo_folder import PhotoFolder
from sklearn.model_selection import StratifiedKFold

from vitlit.data.datamodule import PlainImageData
from vitlit.data.stratify import fold_of_each, members_of_fold, path_hashes
from vitlit.errors import InputError

SPLITS = ("train", "val", "test")


def test_folds_are_as_even_as_those_of_scikit_learn() -> None:
    labels = torch.tensor([0] * 13 + [1] * 7 + [2] * 40 + [3] * 2)
    ours = fold_of_each(labels, 5, seed=3)
    theirs = StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels)
    with pytest.warns(UserWarning, match="least populated class"):
        wanted = sorted(
            labels[torch.from_numpy(test)].bincount(minlength=4).tolist() for _, test in theirs
        )
    found = [labels[ours == fold].bincount(minlength=4) for fold in range(5)]
    for label in range(4):
        assert sorted(one[label].item() for one in found) == sorted(one[label] for one in wanted)
    assert sorted(int(one.sum()) for one in found) == [12, 12, 12, 13, 13]


def test_every_digit_is_tested_once_and_never_trained_on_in_its_fold() -> None:
    tested = []
    for number in range(1, 4):
        data = PlainImageData(dataset="digits", fold=f"{number}/3", patch_size=2)
        splits = data.split_builder.unchecked(SPLITS)
        members = [splits[name].members for name in SPLITS]
        assert torch.cat(members).sort().values.tolist() == list(range(1797))
        assert len(members[1]) == pytest.approx(0.1 * 2 / 3 * 1797, abs=5)
        tested.append(members[2])
    assert torch.cat(tested).sort().values.tolist() == list(range(1797))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_folds_of_a_folder_follow_from_the_names_of_its_files(seed: int) -> None:
    names = [f"{label}/{i}.jpg" for label in "ab" for i in range(50)]
    labels = torch.tensor([0] * 50 + [1] * 50)

    def folds(order: torch.Tensor) -> dict[str, int]:
        paths = [f"/data/{names[i]}" for i in order.tolist()]
        hashes = path_hashes(paths, Path("/data"))
        found = fold_of_each(labels[order], 4, seed, hashes)
        return {names[i]: fold for i, fold in zip(order.tolist(), found.tolist(), strict=True)}

    generator = torch.Generator().manual_seed(0)
    found = folds(torch.arange(100))
    assert folds(torch.randperm(100, generator=generator)) == found
    assert sorted(found.values()) == [0] * 25 + [1] * 25 + [2] * 25 + [3] * 25
    assert [found[name] for name in names] != [i % 4 for i in range(100)]


def test_what_is_not_tested_is_divided_as_without_folds() -> None:
    labels = torch.tensor([0, 1] * 50)
    for hashes in (None, torch.arange(100) * 2**40):
        shares = {"val_fraction": 0.2, "test_fraction": 0.5, "seed": 0}
        found = {
            name: members_of_fold(labels, hashes, name, (1, 4), **shares)  # type: ignore[arg-type]
            for name in SPLITS
        }
        assert len(found["test"]) == 25
        assert sorted(i for one in found.values() for i in one.tolist()) == list(range(100))


def test_a_folder_with_train_alone_has_folds(photo_folder: PhotoFolder) -> None:
    folder = photo_folder("train", count=6)
    tested: list[str] = []
    for number in (1, 2, 3):
        data = PlainImageData(
            dataset="folder", data_dir=str(folder), img_size=8, patch_size=4, fold=f"{number}/3"
        )
        assert data.split_builder.names() == ["train", "val", "test"]
        splits = data.split_builder.splits(SPLITS)
        assert data.split_builder.test_count() == 4
        tested += splits["test"].files(torch.arange(4))
        record = data.split_builder.record()
        assert {name: len(rows) for name, rows in record.items()} == {
            name: len(split) for name, split in splits.items()
        }
    assert len(set(tested)) == 12


def test_published_parts_have_no_folds(photo_folder: PhotoFolder) -> None:
    folder = str(photo_folder("train+val"))
    data = PlainImageData(dataset="folder", data_dir=folder, img_size=8, patch_size=4, fold="1/3")
    with pytest.raises(InputError, match="but folder has the parts train, val; repeat"):
        data.split_builder.unchecked(SPLITS)


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "2", "a/b", "1/5/2", "-1/5", "1 /5"])
def test_a_fold_is_one_of_several(fold: str) -> None:
    with pytest.raises(InputError, match=r"is not one of several; give such as 2/5") as caught:
        PlainImageData(dataset="digits", fold=fold, patch_size=2)
    assert caught.value.arguments == ("fold",)


def test_more_folds_than_images_are_refused() -> None:
    with pytest.raises(InputError, match="5 folds need at least 5 images, and there are 4"):
        fold_of_each(torch.zeros(4, dtype=torch.long), 5, seed=0)
