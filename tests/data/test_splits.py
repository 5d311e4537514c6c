"""Samples and names of a split."""

import torch

from vitlit.data.datamodule import PlainImageData
from vitlit.data.splits import Split
from vitlit.images.image_store import MemoryImages


def test_classes_take_turns_in_the_sample() -> None:
    labels = torch.tensor([2, 2, 0, 0, 0, 1, 2])
    split = Split(MemoryImages(torch.zeros(9, 1, 2, 2), torch.zeros(9)), torch.arange(7))
    split.labels = labels
    assert split.balanced_places(5) == [2, 5, 0, 3, 1]  # 0 1 2, then 0 2


def test_a_sample_is_no_larger_than_its_split() -> None:
    data = PlainImageData(patch_size=2)
    data.setup("validate")
    assert len(data.splits["val"].balanced_places(10**6)) == len(data.splits["val"])


def test_images_of_a_validation_split_are_named_by_their_files_or_places() -> None:
    images = MemoryImages(torch.zeros(3, 1, 2, 2), torch.zeros(3))
    split = Split(images, torch.tensor([2, 0]))
    assert split.names([1, 0], "digits val") == ["digits val 1", "digits val 0"]
    images.paths = ["all/ant/1.png", "all/bee/1.png", "all/cat/1.png"]
    assert split.names([1, 0], "folder val") == ["ant/1.png", "cat/1.png"]
