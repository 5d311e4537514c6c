"""A share of the training images: of every class, addressed by the seed, the rest untouched."""

from itertools import pairwise

import pytest
import torch

from vitlit.data.datamodule import ImageData
from vitlit.data.stratify import stratified_part
from vitlit.errors import InputError

LABELS = torch.tensor([0] * 40 + [1] * 20 + [2] * 3)[torch.randperm(63)]


@pytest.mark.parametrize(("fraction", "counts"), [(0.5, [20, 10, 2]), (0.01, [1, 1, 1])])
def test_each_class_gives_its_share_and_at_least_one(fraction: float, counts: list[int]) -> None:
    members = stratified_part(LABELS, fraction, seed=3)
    assert LABELS[members].bincount().tolist() == counts


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    parts = [set(stratified_part(LABELS, f, seed=3).tolist()) for f in (0.1, 0.3, 0.7, 1.0)]
    assert all(small < large for small, large in pairwise(parts))
    assert len(parts[-1]) == 63


def test_the_seed_alone_decides_which_images() -> None:
    first, again, other = (stratified_part(LABELS, 0.3, seed).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def splits(**changes: float) -> dict[str, torch.Tensor]:
    data = ImageData(dataset="digits", patch_size=4, **changes)
    data.setup("fit")
    data.setup("test")
    return {name: split.members for name, split in data.splits.items()}


def test_validation_and_test_images_stay_the_same() -> None:
    whole, part = splits(), splits(train_fraction=0.1)
    assert torch.equal(part["val"], whole["val"])
    assert torch.equal(part["test"], whole["test"])
    assert len(part["train"]) == pytest.approx(0.1 * len(whole["train"]), abs=5)
    assert set(part["train"].tolist()) < set(whole["train"].tolist())


@pytest.mark.parametrize("value", [0.0, 1.5, -0.1])
def test_a_share_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=f"train_fraction {value} is not a share"):
        ImageData(dataset="digits", train_fraction=value)
