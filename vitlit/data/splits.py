"""Splits: some of the images of a part, a whole batch at a time.

Order -> Batch"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vitlit.augment.pipeline import Augmentation
from vitlit.data.batch import Batch, Order
from vitlit.data.datamodule import ImageData
from vitlit.data.stratify import stratified_part
from vitlit.files import printable
from vitlit.images.image_store import FileImages, Images, is_among


class Split(Dataset[Batch]):
    """Some of the images of a part, gathered a whole batch at a time."""

    def __init__(self, images: Images, members: Tensor) -> None:
        self.images, self.members = images, members
        self.labels = images.labels[members]

    def part(self, fraction: float, seed: int) -> "Split":
        """This split, or a share of each of its classes."""
        if fraction == 1.0:
            return self
        return Split(self.images, self.members[stratified_part(self.labels, fraction, seed)])

    def __len__(self) -> int:
        return len(self.members)

    def _gather(self, order: Order) -> Tensor:
        return self.images.gather(self.members[order.indices])

    def __getitem__(self, order: Order) -> Batch:
        x = self._gather(order)
        y = self.labels[order.indices]
        return Batch(x, y, order.indices, order.valid, order.epoch, order.key)


class CroppedSplit(Split):
    """Training images cut at random out of files, at the files' own resolution."""

    images: FileImages

    def __init__(self, images: FileImages, members: Tensor, augmentation: Augmentation) -> None:
        super().__init__(images, members)
        self.augmentation = augmentation

    def _gather(self, order: Order) -> Tensor:
        draws = self.augmentation.crop_draws(order.indices, order.epoch)
        if draws is None:
            return super()._gather(order)
        return self.images.gather_crops(
            self.members[order.indices],
            draws,
            scale=self.augmentation.scale,
            ratio=self.augmentation.ratio,
        )


class FoundFiles(Split):
    """Files of which some may be unreadable: their rows are black, not valid, and explained."""

    images: FileImages

    def __getitem__(self, order: Order) -> Batch:
        members = self.members[order.indices]
        x, bad = self.images.read(members)
        is_good = ~is_among(bad, members)
        return Batch(
            x,
            self.labels[order.indices],
            order.indices,
            order.valid & is_good,
            order.epoch,
            order.key,
            [(file.place, file.reason) for file in bad],
        )


def pictures(data: ImageData, name: str, sample: Tensor) -> Tensor:
    """Images of a split as they are, float ``(n, C, h, w)`` in [0, 1]."""
    split = data.splits[name]
    return split.images.gather(split.members[sample]).float() / 255


def files_of(data: ImageData, name: str, sample: Tensor) -> list[str]:
    """The files of images of a split, empty where they come from none."""
    split = data.splits[name]
    paths: Sequence[str] = getattr(split.images, "paths", ())
    return [paths[i] if paths else "" for i in split.members[sample].tolist()]


def balanced_sample(split: Split, count: int) -> list[int]:
    """Places in the split of its first images, the classes taking turns: always the same ones."""
    labels = split.labels
    turn = torch.zeros(len(labels), dtype=torch.long)
    for label in range(int(labels.max()) + 1):
        members = labels == label
        turn[members] = torch.arange(int(members.sum()))
    order = sorted(range(len(labels)), key=lambda i: (int(turn[i]), int(labels[i])))
    return order[:count]


def names_in(split: Split, places: list[int], title: str) -> list[str]:
    """Names of the images at these places: their folders and files, or the title and the place."""
    paths = getattr(split.images, "paths", ())
    if not paths:
        return [f"{title} {place}" for place in places]
    members = split.members[places].tolist()
    return [printable(Path(*Path(paths[i]).parts[-2:])) for i in members]
