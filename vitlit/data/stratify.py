"""Splits: which images of a part are held out, the same share of each class.

labels (n,), or hashes of paths (n,) -> sorted members of train | val | test
labels (n,) -> the fold of each image (n,)

Sets that never change are split by the position of their images, which gives each class its exact
share. Folders change, so there the hash of each image's own path decides: no other image has a say.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitlit.errors import InputError, say
from vitlit.images.image_bytes import name_hash
from vitlit.seeding import Stream, address, permutation, uniform

# Images: batches up to this size may repeat a small training set, larger ones must be a slip.
MAX_REPEATING_BATCH = 1024


def stratified_split(labels: Tensor, fraction: float, key: int) -> tuple[Tensor, Tensor]:
    """Hold out ``fraction`` of each class: (kept, held out), sorted indices int64.

    A class of two or more images keeps at least one and gives at least one. Raises InputError if
    no class can give any.
    """
    held: list[Tensor] = []
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        # An address for each class, so that the images of one class do not decide about another.
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

    val_fraction is a share of what the test split leaves; a test_fraction of 0 leaves everything.
    """
    # The test split is taken first, so val_fraction never moves an image into or out of it.
    members = torch.arange(len(labels))
    if test_fraction:
        members, test = stratified_split(labels, test_fraction, address(seed, Stream.TEST_SPLIT))
        if name == "test":
            return test
    kept, held = stratified_split(labels[members], val_fraction, address(seed, Stream.VAL_SPLIT))
    return members[held if name == "val" else kept]


def read_fold(fold: str | None) -> tuple[int, int] | None:
    """``"2/5"`` as (1, 5): which fold, counted from 0, and how many there are; None for None."""
    if fold is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})", fold)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count or count < 2:
        raise InputError(
            f"fold {fold!r} is not one of several; give such as 2/5, the second of five",
            argument="fold",
        )
    return number - 1, count


def fold_of_each(labels: Tensor, count: int, seed: int, hashes: Tensor | None = None) -> Tensor:
    """The fold of each image, in 0 to ``count`` - 1: int64 ``(n,)``.

    Folds differ by at most one image, and so does each class in them. hashes: of the paths
    ``(n,)``, which decide the order of the images of a class; without them their position does.
    """
    if len(labels) < count:
        raise InputError(
            f"{count} folds need at least {count} images, and there are {len(labels)}; give fewer",
            argument="fold",
        )
    key, folds = address(seed, Stream.FOLDS), torch.empty(len(labels), dtype=torch.long)
    dealt = 0  # the next class goes on where the last one ended, so that the folds stay equal
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        if hashes is None:
            order = permutation(address(key, label), len(members))
        else:
            order = uniform(key, hashes[members], 1)[:, 0].argsort(stable=True)
        folds[members[order]] = (torch.arange(len(members)) + dealt) % count
        dealt += len(members)
    return folds


def members_of_fold(
    labels: Tensor,
    hashes: Tensor | None,
    name: str,
    fold: tuple[int, int],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> Tensor:
    """Like :func:`split_members`, or :func:`hashed_members` if there are hashes, of one fold.

    fold: its number and how many there are: it is the test split, whatever test_fraction is.
    """
    number, count = fold
    is_test = fold_of_each(labels, count, seed, hashes) == number
    members = (is_test if name == "test" else ~is_test).nonzero()[:, 0]
    if name == "test":
        return members
    shares: Any = {"val_fraction": val_fraction, "test_fraction": 0.0, "seed": seed}
    if hashes is not None:
        return members[hashed_members(hashes[members], name, **shares)]
    return members[split_members(labels[members], name, **shares)]


def path_hashes(paths: Sequence[str], root: Path) -> Tensor:
    """Hash of each path below ``root``: int64 ``(n,)``, the same on every system.

    Where the folder lies does not matter, nor how letters with accents are written.
    """
    start = os.path.join(root, "")  # noqa: PTH118 - with a separator at the end
    found = [name_hash(path.removeprefix(start)) for path in paths]
    return torch.tensor(found, dtype=torch.long)


def hashed_members(
    hashes: Tensor, name: str, *, val_fraction: float, test_fraction: float, seed: int
) -> Tensor:
    """Like :func:`split_members`, for images with these ``hashes`` of their paths ``(n,)``.

    An image is held out if its own draw is below the fraction, so adding or removing images moves
    no other, and a class gets its share only on average. Only in a folder so small that a split
    would have no image at all is it given the one whose draw is nearest to its own.
    """
    members = torch.arange(len(hashes))
    # left: how many images those splits need that are still to be filled
    for split, fraction, stream, left in (
        ("test", test_fraction, Stream.TEST_SPLIT, 2),
        ("val", val_fraction, Stream.VAL_SPLIT, 1),
    ):
        if not fraction:
            continue
        if len(members) <= left:
            raise InputError(
                "there are too few images to hold some out; give three or more, or provide "
                "train, val and test folders"
            )
        draws = uniform(address(seed, stream), hashes[members], 1)[:, 0]
        is_held = draws < fraction
        is_held[draws.argmin()] = True
        is_held[draws.topk(left).indices] = False
        if name == split:
            return members[is_held]
        members = members[~is_held]
    return members


def stratified_part(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Sorted indices of a share of each class, at least one image.

    The seed alone decides the order in which images are taken, so a smaller share is always part of
    a larger one.
    """
    classes = _in_order(labels, seed)
    kept = [members[: max(1, round(fraction * len(members)))] for members in classes]
    return torch.cat(kept).sort().values


def few_of_each(labels: Tensor, count: int, seed: int) -> Tensor:
    """Sorted indices of ``count`` images of each class, or of all images of a smaller class.

    They are taken in the order of :func:`stratified_part`, so fewer are part of more.
    """
    return torch.cat([members[:count] for members in _in_order(labels, seed)]).sort().values


def _in_order(labels: Tensor, seed: int) -> Iterator[Tensor]:
    """The indices of each class in the order in which images are taken, which the seed decides."""
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        yield members[permutation(address(address(seed, Stream.PART_SPLIT), label), len(members))]


def tell_repeats(size: int, batch_size: int, world: int, copies: int = 1) -> None:
    """Tell if a global batch repeats training images; raise InputError if it must be a slip.

    copies: of each image in a batch, by repeated_augment.
    """
    images = batch_size // copies
    total = images * world
    if images > max(size, MAX_REPEATING_BATCH):
        what = "the" if copies == 1 else f"{copies} copies of the"
        raise InputError(
            f"batch_size {batch_size} is more than {what} {size} training images; give "
            f"{size * copies} or less",
            argument="batch_size",
        )
    if total > size:
        say(
            f"a batch of {total} repeats each of the {size} training images up to "
            f"{-(-total // size)} times; give a smaller batch_size to use each image once"
        )


def check_fractions(**fractions: float) -> None:
    """Raise InputError for shares, by split, outside (0, 1); ``train`` may be 1 as well."""
    for name, value in fractions.items():
        if not 0.0 < value < 1.0 and not (name == "train" and value == 1.0):
            name = f"{name}_fraction"
            message = f"{name} {value} is not a share; give one between 0 and 1"
            raise InputError(message, argument=name)


def check_shots(shots: int | None, train_fraction: float) -> None:
    """Raise InputError for a number of images below 1, or one beside a share of them."""
    if shots is not None and shots < 1:
        raise InputError(f"shots {shots} leaves no image; give 1 or more", argument="shots")
    if shots is not None and train_fraction != 1.0:
        raise InputError(
            f"shots {shots} and train_fraction {train_fraction} are two ways to say how many "
            f"images to use; leave out one of them",
            argument=("shots", "train_fraction"),
        )
