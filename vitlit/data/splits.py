"""Splits: the images that train, validate, test or predict, gathered a whole batch at a time.

Order: indices (B,) -> Batch: uint8 (B, C, h, w), labels (B,)

"Places" are indices of a split; ``members`` turns them into indices of all images of its part.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vitlit.augment.pipeline import Augmentation
from vitlit.data.batch import Batch, Order
from vitlit.data.shards.shard_images import ShardImages, open_part
from vitlit.data.shards.shard_list import shards_among
from vitlit.data.stratify import few_of_each, stratified_part
from vitlit.errors import first_few, say
from vitlit.files import printable
from vitlit.images.bad_images import say_unread
from vitlit.images.find_images import find_images
from vitlit.images.framing import PLAIN_FRAMING, Framing
from vitlit.images.image_io import ImageFile
from vitlit.images.image_store import FileImages, Images, file_paths, is_among
from vitlit.tasks.known import kind_of_targets


class Split(Dataset[Batch]):
    """Some of the images of a part, gathered a whole batch at a time.

    members: int64 ``(n,)``, the indices of the split's images among those of the part.
    """

    def __init__(self, images: Images, members: Tensor) -> None:
        self.images, self.members = images, members
        self.labels = images.labels[members]

    @property
    def strata(self) -> Tensor:
        """A group of each image, such as its class, int64 ``(n,)``: a share takes from each."""
        return kind_of_targets(self.labels).strata(self.labels)

    def part(self, fraction: float, seed: int) -> "Split":
        """A share of each of the split's classes; the split itself for a fraction of 1."""
        if fraction == 1.0:
            return self
        return Split(self.images, self.members[stratified_part(self.strata, fraction, seed)])

    def few(self, count: int, seed: int) -> "Split":
        """At most ``count`` images of each of the split's classes."""
        return Split(self.images, self.members[few_of_each(self.strata, count, seed)])

    @property
    def paths(self) -> Sequence[str]:
        """The files of all images of the part; empty if the images come from no files."""
        return file_paths(self.images)

    def files(self, places: Tensor) -> list[str]:
        """The files of the images at these places ``(n,)``; empty strings if there are none."""
        return [self.paths[i] if self.paths else "" for i in self.members[places].tolist()]

    def image_files(self, places: Tensor) -> Sequence[ImageFile]:
        """What the images at these places ``(n,)`` are read from: paths, or bytes of shards."""
        if isinstance(self.images, ShardImages):
            return self.images.image_files(self.members[places])
        return self.files(places)

    def names(self, places: Sequence[int], title: str) -> list[str]:
        """Names of the images at these places: "folder/file", or ``title`` and the place."""
        if not self.paths:
            return [f"{title} {place}" for place in places]
        files = self.files(torch.tensor(places, dtype=torch.long))
        return [printable(Path(*Path(file).parts[-2:])) for file in files]

    def pictures(self, places: Tensor) -> Tensor:
        """Images at these places ``(...,)``, not normalised: float ``(..., C, h, w)`` in [0, 1]."""
        images = self.images.gather(self.members[places.flatten()]).float() / 255
        return images.view(*places.shape, *images.shape[1:])

    def balanced_places(self, count: int) -> list[int]:
        """Places of ``count`` images, one class after the other in turns; always the same ones."""
        # turn: how many images of the same class come before each image
        strata = self.strata
        turn = torch.zeros(len(strata), dtype=torch.long)
        for label in range(int(strata.max()) + 1):
            members = strata == label
            turn[members] = torch.arange(int(members.sum()))
        order = sorted(range(len(self)), key=lambda i: (int(turn[i]), int(strata[i])))
        return order[:count]

    def __len__(self) -> int:
        return len(self.members)

    def _gather(self, order: Order) -> Tensor:
        return self.images.gather(self.members[order.indices])

    def __getitem__(self, order: Order) -> Batch:
        # order stands for a whole batch: one gather instead of B calls
        x = self._gather(order)
        y = self.labels[order.indices]
        address = (order.indices, order.valid, order.epoch, order.key)
        return Batch(x, y, *address, copies=order.copies)


class CroppedSplit(Split):
    """Training images cropped at random at the resolution of their files, as they are decoded."""

    images: FileImages

    def __init__(self, images: FileImages, members: Tensor, augmentation: Augmentation) -> None:
        super().__init__(images, members)
        self.augmentation = augmentation

    def _gather(self, order: Order) -> Tensor:
        draws = self.augmentation.crop_draws(order.drawn, order.epoch)
        if draws is None:  # off_last: the epochs without this stage see whole images
            return super()._gather(order)
        return self.images.gather_crops(
            self.members[order.indices],
            draws,
            scale=self.augmentation.scale,
            ratio=self.augmentation.ratio,
        )


class FoundFiles(Split):
    """Files for predict, which goes on past bad ones: their rows are black, not valid, listed."""

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


def found_files(
    paths: Sequence[str],
    in_chans: int,
    size: tuple[int, int],
    framing: Framing = PLAIN_FRAMING,
) -> FoundFiles:
    """The image files among files and folders, for a model of ``in_chans`` channels.

    Shards are taken in place of files. size: (height, width) at which they are decoded; framing:
    how they are fitted to it.
    """
    if shards := shards_among(paths):
        how: Any = {"size": size, "framing": framing}
        found = open_part(shards, "all", None, in_chans=1 if in_chans == 1 else 3, **how)
        return FoundFiles(found, torch.arange(len(found)))
    unread: list[str] = []
    files = find_images(paths, unread)
    say_unread(unread)
    labels = torch.full((len(files),), -1)  # unknown
    channels = 1 if in_chans == 1 else 3
    images = FileImages(files, labels, in_chans=channels, size=size, framing=framing)
    return FoundFiles(images, torch.arange(len(labels)))


def tell_few(class_names: Sequence[str], counts: Sequence[int], shots: int) -> None:
    """Tell which classes have fewer training images than ``shots``; counts: of each class."""
    few = [
        f"{name} ({count})"
        for name, count in zip(class_names, counts, strict=True)
        if count < shots
    ]
    if few:
        say(f"shots {shots} is more than there are training images of {first_few(few)}")


def tell_missing(
    split: str, class_names: Sequence[str], labels: Tensor, members: Tensor, why: str
) -> None:
    """Tell which classes of a part, with these labels, have no image in a split of it, and why.

    why: after a comma; empty if that is not known.
    """
    kind, outputs = kind_of_targets(labels), len(class_names)
    has, there = (kind.images_of(part, outputs) > 0 for part in (labels, labels[members]))
    missing = [class_names[i] for i in (has & ~there).nonzero()[:, 0].tolist()]
    if missing:
        reason = f", {why}" if why else ""
        say(f"the {split} split has no image of class {first_few(missing)}{reason}")
