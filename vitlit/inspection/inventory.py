"""The inventory of a data set: every image of every split, with its fingerprints.

Split of each name, bad files included -> images 0..n-1, each with its split, place and label

Each image is decoded once, as the model gets it; pixels are thrown away.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vitlit.data.splits import Split
from vitlit.files import printable
from vitlit.images.image_store import BadFile, FileImages, Images, is_among
from vitlit.images.preprocess import match_channels
from vitlit.inspection.fingerprints import Fingerprints, fingerprints, joined
from vitlit.tasks.known import kind_of_targets
from vitlit.tasks.task import Task

CHUNK_IMAGES = 512  # that are gathered at a time
CHUNK_VALUES = 1 << 22  # of images whose fingerprints are computed at a time: 16 MB of float32


class Unread(NamedTuple):
    """A file that cannot be read: the split that it would be in, its target, and why."""

    split: str
    label: Tensor
    file: BadFile


@dataclass(frozen=True)
class Inventory:
    """All images that can be read, split after split.

    splits: without the files in ``unread``; split, place: int64 ``(n,)``, the number of each
    image's split and its place there; label: targets of any task, ``(n,)`` or ``(n, k)``.
    """

    class_names: Sequence[str]
    splits: Mapping[str, Split]
    split: Tensor
    place: Tensor
    label: Tensor
    prints: Fingerprints
    unread: Sequence[Unread]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def split_names(self) -> list[str]:
        """The names of the splits, by their numbers."""
        return list(self.splits)

    def split_of(self, image: int) -> str:
        """The name of an image's split."""
        return self.split_names[int(self.split[image])]

    @property
    def kind(self) -> type[Task]:
        """The task whose targets the labels are."""
        return kind_of_targets(self.label)

    def label_of(self, image: int) -> str:
        """An image's class, classes or number, in words."""
        return self.kind.target_words(self.label[image], self.class_names)

    def has_same_label(self, first: int, second: int) -> bool:
        """Whether two images have the same class, the same classes or the same number."""
        return torch.equal(self.label[first], self.label[second])

    def file_of(self, image: int) -> str:
        """The path of an image; empty if the set is not made of files."""
        return self.splits[self.split_of(image)].files(self.place[image : image + 1])[0]

    @cached_property
    def _root(self) -> str:
        """The folder that all files are below."""
        paths = {path for split in self.splits.values() for path in split.paths}
        return os.path.commonpath([Path(path).parent for path in paths]) if paths else ""

    def name_of(self, image: int) -> str:
        """The path of an image below the data folder, or its split and place; safe to print."""
        file = self.file_of(image)
        if not file:
            return f"{self.split_of(image)} {int(self.place[image])}"
        return printable(Path(file).relative_to(self._root))

    def pixels_of(self, image: int) -> Tensor:
        """The image as it is decoded: uint8 ``(C, h, w)``."""
        split = self.splits[self.split_of(image)]
        return split.images.gather(split.members[self.place[image : image + 1]])[0]

    def sizes(self) -> list[int]:
        """How many images each split has."""
        return [len(split) for split in self.splits.values()]

    def statistics(self, split: str) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, of the split's pixels in [0, 1]."""
        rows = self.split == self.split_names.index(split)
        mean = self.prints.sums[rows].mean(dim=0)
        variance = self.prints.squares[rows].mean(dim=0) - mean.square()
        return mean.tolist(), variance.clamp(min=0).sqrt().tolist()


def take_inventory(
    splits: Mapping[str, Split], class_names: Sequence[str], in_chans: int
) -> Inventory:
    """Decode every image of the splits once. in_chans: channels of the model's input."""
    found: dict[str, tuple[Split, Fingerprints]] = {}
    unread: list[Unread] = []
    parts: dict[int, _Part] = {}
    for name, split in splits.items():
        images = split.images
        if id(images) not in parts:  # train, val and test may be divided from one part
            users = [other.members for other in splits.values() if other.images is images]
            parts[id(images)] = _read_part(images, torch.cat(users).sort().values, in_chans)
        part = parts[id(images)]
        is_bad = is_among(part.bad, split.members)
        files = {file.place: file for file in part.bad}
        bad = zip(split.members[is_bad].tolist(), split.labels[is_bad], strict=True)
        unread += [Unread(name, label, files[member]) for member, label in bad]
        good = split.members[~is_bad]
        found[name] = (
            Split(images, good),
            _rows(part.prints, torch.searchsorted(part.members, good)),
        )
    sizes = torch.tensor([len(split) for split, _ in found.values()])
    return Inventory(
        class_names,
        {name: split for name, (split, _) in found.items()},
        torch.arange(len(found)).repeat_interleave(sizes),
        torch.cat([torch.arange(size) for size in sizes.tolist()]),
        torch.cat([split.labels for split, _ in found.values()]),
        joined([prints for _, prints in found.values()], in_chans),
        unread,
    )


class _Part(NamedTuple):
    """The images of a part: sorted members ``(n,)`` and fingerprints of the good, and the bad."""

    members: Tensor
    prints: Fingerprints
    bad: Sequence[BadFile]


def _read_part(images: Images, wanted: Tensor, in_chans: int) -> _Part:
    """wanted: the members of all splits, sorted; files that are in none may be read too."""
    prints: list[Fingerprints] = []
    if isinstance(images, FileImages):
        bad: Sequence[BadFile] = images.decode(lambda pixels: prints.extend(_in_parts(pixels)))
        members = torch.arange(len(images))
        return _Part(members[~is_among(bad, members)], joined(prints, in_chans), bad)
    members = wanted[~is_among(images.bad, wanted)]
    for rows in torch.split(members, CHUNK_IMAGES):
        prints += _in_parts(match_channels(images.gather(rows), in_chans))
    return _Part(members, joined(prints, in_chans), images.bad)


def _in_parts(pixels: Tensor) -> list[Fingerprints]:
    """The fingerprints of a batch, a few images at a time: as float32 large ones fill memory."""
    count = max(1, CHUNK_VALUES // pixels[:1].numel()) if len(pixels) else 1
    return [fingerprints(part) for part in torch.split(pixels, count) if len(part)]


def _rows(prints: Fingerprints, rows: Tensor) -> Fingerprints:
    digests = [prints.digests[row] for row in rows.tolist()]
    return Fingerprints(digests, *(column[rows] for column in prints[1:]))
