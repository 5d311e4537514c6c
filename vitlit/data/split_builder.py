"""Dividing a data set into the splits train, val and test.

data set on disk -> parts, as published -> splits, without the files that cannot be read
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vitlit.data.catalog import DatasetName
from vitlit.data.csv_labels import labelled_images
from vitlit.data.datasets import open_images, read_part
from vitlit.data.image_folder import check_class_names, part_names
from vitlit.data.splits import Split
from vitlit.data.stratify import split_members
from vitlit.errors import InputError, first_few, say
from vitlit.images.bad_images import OnBadImage, leave_out_bad_images, refuse_parts_with_bad_images
from vitlit.images.image_store import Images

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class SplitBuilder:
    """How a data set is read and divided; the fields are arguments of ImageData.

    size: (height, width) in pixels that files are decoded to; seed: decides which images are held
    out; labels: a CSV file in place of class folders; train_fraction: share of the training images
    that is used.
    """

    dataset: DatasetName
    data_dir: Path
    class_names: list[str]
    in_chans: int
    size: tuple[int, int]
    memory_gb: float
    val_fraction: float
    test_fraction: float
    seed: int
    on_bad_image: OnBadImage
    labels: Path | None = None
    train_fraction: float = 1.0
    _parts: dict[str, Images] = field(default_factory=dict)  # opened parts: two splits share one

    def splits(self, names: Sequence[SplitName]) -> dict[str, Split]:
        """The splits of these names.

        Files that cannot be read raise InputError or are left out, as ``on_bad_image`` says.
        """
        found: dict[str, tuple[Images, Tensor]] = {name: self._members(name) for name in names}
        if self.on_bad_image == "refuse":  # once all parts are open: one message for all files
            refuse_parts_with_bad_images(list(self._parts.values()))
        else:
            found = leave_out_bad_images(found, self.class_names)
        shares = {"train": self.train_fraction}
        return {
            name: Split(images, members).part(shares.get(name, 1.0), self.seed)
            for name, (images, members) in found.items()
        }

    def _members(self, name: str) -> tuple[Images, Tensor]:
        """The images of the part that a split is taken from, and the split's indices among them."""
        found = ("all",) if self.labels else part_names(self.dataset, self.data_dir)
        if self.dataset == "folder" and not self.labels:
            # a checkpoint may have brought the names, and the folder may be another one
            check_class_names(self.data_dir, self.class_names)
        # Published parts are used whole, but train gives up images if there is no val part.
        if name in found and (name != "train" or "val" in found):
            images = self._part(name)
            return images, torch.arange(len(images))
        if name == "test" and "all" not in found:
            raise InputError(
                f"{self.data_dir} has no test folder; score the validation split with "
                f"`vitlit validate`, or add {self.data_dir / 'test'}"
            )
        part = "all" if "all" in found else "train"
        images = self._part(part)
        members = split_members(
            images.labels,
            name,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction if part == "all" else 0.0,
            seed=self.seed,
        )
        if name != "train":  # every class keeps a training image, see stratified_split
            self._say_missing(name, images.labels, members)
        return images, members

    def _say_missing(self, name: str, labels: Tensor, members: Tensor) -> None:
        """Tell which classes have too few images to give one to the split."""
        there = set(labels[members].tolist())
        missing = [self.class_names[i] for i in torch.unique(labels).tolist() if i not in there]
        if missing:
            say(f"the {name} split has no image of class {first_few(missing)}, which has too few")

    def _part(self, part: str) -> Images:
        """The images of a part, which is opened once."""
        # To skip files, all bad ones must be known before training: headers do not show them all.
        thorough = self.on_bad_image == "skip"
        if self.labels and part not in self._parts:
            images = labelled_images(
                self.labels,
                self.data_dir,
                self.class_names,
                in_chans=self.in_chans,
                size=self.size,
            )
            self._parts[part] = open_images(
                images, self.data_dir, memory_gb=self.memory_gb, thorough=thorough
            )
        if part not in self._parts:
            self._parts[part] = read_part(
                self.dataset,
                part,
                self.data_dir,
                num_classes=len(self.class_names),
                in_chans=self.in_chans,
                size=self.size,
                memory_gb=self.memory_gb,
                thorough=thorough,
            )
        return self._parts[part]
