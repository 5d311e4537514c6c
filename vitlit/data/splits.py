"""Which images of a part make which split, and a split's batches.

labels (n,) -> members of train | val | test; Order -> Batch
"""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vitlit.augment.pipeline import Augmentation
from vitlit.data.sampler import Batch, Order
from vitlit.errors import InputError
from vitlit.images.decode_cache import say
from vitlit.images.image_store import FileImages, Images, is_among
from vitlit.seeding import address, permutation

MANY_IMAGES = 1024  # images of a batch; smaller ones may fill up with repeats of a small set
TEST_SPLIT, VAL_SPLIT, PART_SPLIT = 4, 5, 6  # streams of addresses, see sampler.py


def stratified_split(labels: Tensor, fraction: float, key: int) -> tuple[Tensor, Tensor]:
    """Divide samples so that each class gives its share: (kept, held out), sorted indices.

    A class of two images or more keeps at least one and gives at least one.
    """
    held: list[Tensor] = []
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        most = len(members) - 1
        count = min(max(round(fraction * len(members)), 1), most)
        held.append(members[permutation(address(key, label), len(members))[:count]])
    if not sum(map(len, held)):
        raise InputError(
            "the classes have too few images to hold some out; give each three or more, "
            "or provide train, val and test folders"
        )
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    is_held[torch.cat(held)] = True
    return (~is_held).nonzero()[:, 0], is_held.nonzero()[:, 0]


def split_members(
    labels: Tensor, name: str, *, val_fraction: float, test_fraction: float, seed: int
) -> Tensor:
    """Sorted indices of the split ``name`` (train, val or test) of a part with ``labels``.

    The test split, a share of each class, depends on the seed alone, and the validation split is
    a share of what is left. A test_fraction of 0 leaves all for the other two.
    """
    members = torch.arange(len(labels))
    if test_fraction:
        members, test = stratified_split(labels, test_fraction, address(seed, TEST_SPLIT))
        if name == "test":
            return test
    kept, held = stratified_split(labels[members], val_fraction, address(seed, VAL_SPLIT))
    return members[held if name == "val" else kept]


def stratified_part(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Sorted indices of a share of each class, at least one image; a smaller share is part of it.

    Which images, the seed alone decides.
    """
    kept = []
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        order = permutation(address(address(seed, PART_SPLIT), label), len(members))
        kept.append(members[order[: max(1, round(fraction * len(members)))]])
    return torch.cat(kept).sort().values


def check_repeats(size: int, batch_size: int, world: int) -> None:
    """Say where a global batch holds training images more than once; refuse what must be a slip."""
    total = batch_size * world
    if batch_size > max(size, MANY_IMAGES):
        raise InputError(
            f"batch_size {batch_size} is more than the {size} training images; give {size} or less",
            argument="batch_size",
        )
    if total > size:
        say(
            f"a batch of {total} holds each of the {size} training images up to "
            f"{-(-total // size)} times; give a smaller batch_size to have each once"
        )


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
