"""Dividing a data set into the splits train, val and test.

data set on disk -> parts, as published -> splits, without the files that cannot be read
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vitlit.data.catalog import may_change
from vitlit.data.csv_labels import labelled_images
from vitlit.data.datasets import open_images, open_shards, read_part
from vitlit.data.image_folder import check_class_names, part_names
from vitlit.data.published.hub_name import is_hub
from vitlit.data.shards.open_shards import check_shard_classes
from vitlit.data.shards.places import place_of
from vitlit.data.shards.shard_list import find_shards
from vitlit.data.split_record import (
    Changes,
    SplitRecord,
    changes_since,
    image_file_hashes,
    image_path_hashes,
    is_same_data,
    make_record,
    may_be_trained_on,
    was_held_out,
    was_trained_on,
)
from vitlit.data.splits import Split, tell_few, tell_missing
from vitlit.data.stratify import (
    hashed_members,
    members_of_fold,
    read_fold,
    split_members,
)
from vitlit.errors import InputError, check_choice, say
from vitlit.images.bad_images import OnBadImage, leave_out_bad_images, refuse_parts_with_bad_images
from vitlit.images.framing import Framing
from vitlit.images.image_store import Images
from vitlit.tasks.known import kind_of_targets
from vitlit.tasks.task import TaskName

SplitName = Literal["train", "val", "test"]
SplitRule = Literal["hash", "position"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True)
class SplitBuilder:
    """How a data set is read and divided; the fields are arguments of ImageData.

    size: (height, width) in pixels that files are decoded to; framing: how they are fitted to it;
    seed: decides which images are held out; fold: which one of how many folds is the test split, in
    place of test_fraction; split_by: whether the hash of its path or its position decides about an
    image; labels: a CSV file in place of class folders; task: what its labels are; target: its
    column of numbers, for regression; train_fraction: share of the training images that is used;
    shots: how many of each class are used, None for all; unlabelled: a folder has no classes;
    known: the images of the training that a checkpoint comes from, if any; is_same_place: whether
    they come from the same folder; allow_empty: whether a class may have no images in a part,
    which a training refuses.
    """

    dataset: str
    data_dir: Path
    class_names: list[str]
    in_chans: int
    size: tuple[int, int]
    framing: Framing
    memory_gb: float
    val_fraction: float
    test_fraction: float
    seed: int
    split_by: SplitRule
    fold: tuple[int, int] | None
    on_bad_image: OnBadImage
    labels: Path | None = None
    task: TaskName = "single_label"
    target: str | None = None
    train_fraction: float = 1.0
    shots: int | None = None
    unlabelled: bool = False
    known: SplitRecord = field(default_factory=dict)
    is_same_place: bool = False
    allow_empty: bool = False
    _parts: dict[str, Images] = field(default_factory=dict)  # opened parts: two splits share one
    _hashes: dict[str, Tensor] = field(default_factory=dict)  # of the paths of each part

    @classmethod
    def of(
        cls, settings: Mapping[str, Any], *, size: tuple[int, int], framing: Framing
    ) -> "SplitBuilder":
        """For the arguments of an ImageData, with what the data set decided filled in."""
        labels = settings["labels"]
        check_choice(get_args(OnBadImage), on_bad_image=settings["on_bad_image"])
        same = ("dataset", "class_names", "in_chans", "memory_gb", "val_fraction", "test_fraction")
        more = ("on_bad_image", "train_fraction", "shots", "unlabelled", "task", "target")
        return cls(
            **{name: settings[name] for name in (*same, *more)},
            data_dir=place_of(settings["data_dir"]),
            labels=None if labels is None else Path(labels),
            size=size,
            framing=framing,
            seed=settings["split_seed"],
            split_by=settings["split_by"] or "position",
            fold=read_fold(settings["fold"]),
        )

    def names(self) -> list[SplitName]:
        """The splits that the data set has: test may be missing."""
        found = self._found_parts()
        has_test = "all" in found or "test" in found or self.fold is not None
        return ["train", "val", "test"] if has_test else ["train", "val"]

    def unchecked(self, names: Sequence[SplitName]) -> dict[str, Split]:
        """The splits of these names, with the files that cannot be read still in them."""
        splits: dict[str, Split] = {name: Split(*self._members(name)) for name in names}
        if "train" in splits:
            splits["train"] = self._part_of_train(splits["train"])
        return splits

    def splits(self, names: Sequence[SplitName]) -> dict[str, Split]:
        """The splits of these names.

        Files that cannot be read raise InputError or are left out, as ``on_bad_image`` says.
        """
        found: dict[str, tuple[Images, Tensor]] = {name: self._members(name) for name in names}
        if self.on_bad_image == "refuse":  # once all parts are open: one message for all files
            refuse_parts_with_bad_images(list(self._parts.values()))
        else:
            found = leave_out_bad_images(found, self.class_names)
        splits = {name: Split(images, members) for name, (images, members) in found.items()}
        if "train" in splits:
            splits["train"] = self._part_of_train(splits["train"])
        return splits

    def _part_of_train(self, split: Split) -> Split:
        """The training images that are used; tells which classes have fewer than ``shots``."""
        if self.shots is None:
            return split.part(self.train_fraction, self.seed)
        kind = kind_of_targets(split.labels)
        kind.require("shots", argument="shots")
        counts = kind.images_of(split.labels, len(self.class_names)).tolist()
        tell_few(self.class_names, counts, self.shots)
        return split.few(self.shots, self.seed)

    def _members(self, name: str) -> tuple[Images, Tensor]:
        """The images of the part that a split is taken from, and the split's indices among them."""
        found = self._found_parts()
        if self._has_own_names:
            # a checkpoint may have brought the names, and the folder may be another one
            check_class_names(self.data_dir, self.class_names, self.dataset)
        if self.dataset == "shards" and not self.unlabelled:
            check_shard_classes(find_shards(self.data_dir), self.class_names)
        # Published parts are used whole, but train gives up images if there is no val part.
        if name in found and (name != "train" or "val" in found):
            images = self._part(name)
            return images, torch.arange(len(images))
        if name == "test" and "all" not in found and self.fold is None:
            raise InputError(
                f"{self.data_dir} has no test folder; score the validation split, val, or add "
                f"{self.data_dir / 'test'}",
                argument="split",
            )
        part = "all" if "all" in found else "train"
        images = self._part(part)
        members = self._divide(part, name)
        if self.known:
            members = self._hold_to_training(part, name, members)
        tell_missing(name, self.class_names, images.labels, members, self._why_missing())
        return images, members

    def _why_missing(self) -> str:
        """Why a split may have no image of a class; empty where the record does not tell."""
        chance = "by chance; another split_seed may help"
        return "" if self.known else chance if self.split_by == "hash" else "which has too few"

    @property
    def _has_own_names(self) -> bool:
        """Whether the images on disk decide the class names."""
        return is_hub(self.dataset) or (
            self.dataset == "folder" and not self.labels and not self.unlabelled
        )

    def _found_parts(self) -> tuple[str, ...]:
        found = ("all",) if self.labels else part_names(self.dataset, self.data_dir)
        if self.fold is not None and len(found) > 1:
            raise InputError(
                f"folds divide images that are not divided yet, but {self.dataset} has the parts "
                f"{', '.join(found)}; repeat the training with other seeds (--repeats), or give a "
                f"folder without such parts",
                argument="fold",
            )
        return found

    def _divide(self, part: str, name: str) -> Tensor:
        """The indices of a split among the images of a part that was not published divided."""
        labels = self._part(part).labels
        strata = kind_of_targets(labels).strata(labels)
        hashes = self._path_hashes(part) if self.split_by == "hash" else None
        test_fraction = self.test_fraction if part == "all" else 0.0
        shares = {"val_fraction": self.val_fraction, "test_fraction": test_fraction}
        if self.fold is not None:
            return members_of_fold(strata, hashes, name, self.fold, seed=self.seed, **shares)
        if hashes is not None:
            return hashed_members(hashes, name, seed=self.seed, **shares)
        return split_members(strata, name, seed=self.seed, **shares)

    def _path_hashes(self, part: str) -> Tensor:
        if part not in self._hashes:
            self._hashes[part] = image_path_hashes(self._part(part), self.data_dir)
        return self._hashes[part]

    def _hold_to_training(self, part: str, name: str, members: Tensor) -> Tensor:
        """The members that the training of the checkpoint allows; tells what has changed since."""
        kept, files, same = self._allowed(part, name, members)
        total = len(members)
        what = f"{name} has {len(kept)} of {total} images, those that the training did not use"
        if name == "train":
            what = f"train has {len(kept)} images, none that the training held out"
        elif same:
            total = len(self.known.get(name, ()))
            what = f"{name} has {len(kept)} of the {total} images that the training held out"
            if len(kept) < total:
                what += "; the others are gone, or have become copies of training images"
        changes = Changes(0, 0, 0)
        if same:
            changes = changes_since(self.known, self._path_hashes(part), kept, files)
        told = f"{self.data_dir}: {changes}; {what}" if same else f"{self.data_dir}: {what}"
        if not len(kept):
            way = "give the folder of the training, or other images than those that it used"
            raise InputError(f"{told}; {way}", argument="data_dir")
        if any(changes) or len(kept) < total:
            say(told)
        return kept

    def _allowed(self, part: str, name: str, members: Tensor) -> tuple[Tensor, Tensor, bool]:
        """The members that the training allows, their files' hashes, whether it had the folder."""
        hashes, files = self._path_hashes(part), self._file_hashes(part, members)
        same = self.is_same_place or is_same_data(self.known, files)
        if name == "train":
            allowed = may_be_trained_on(self.known, hashes[members], files, same=same)
        else:
            if same:  # what was held out then, whatever the rule would choose now
                members = was_held_out(self.known, name, hashes).nonzero()[:, 0]
                files = self._file_hashes(part, members)
            allowed = ~was_trained_on(self.known, hashes[members], files, same=same)
        return members[allowed], files[allowed], same

    def _file_hashes(self, part: str, members: Tensor) -> Tensor:
        return image_file_hashes(self._part(part), members)

    def test_count(self) -> int | None:
        """Images held out for ``test``; None if they are a part of their own: it stays unread."""
        part = self._found_parts()[0]
        return len(self._divide(part, "test")) if part == "all" or self.fold else None

    def record(self) -> dict[str, Tensor]:
        """Which images are in which split, for the checkpoint of a training.

        Empty for sets that do not change and for parts that are published divided.
        """
        found = self._found_parts()
        if not may_change(self.dataset) or "val" in found:
            return {}
        part = "all" if "all" in found else "train"
        is_held_out = part == "all" or self.fold is not None
        names = ("train", "val", "test") if is_held_out else ("train", "val")
        splits = {name: self._divide(part, name) for name in names}
        if self.known:
            splits = {name: self._allowed(part, name, splits[name])[0] for name in names}
        files = self._file_hashes(part, torch.arange(len(self._path_hashes(part))))
        return make_record(self._path_hashes(part), files, splits, self.known)

    def _part(self, part: str) -> Images:
        """The images of a part, which is opened once."""
        if part not in self._parts:
            self._parts[part] = self._open(part)
        return self._parts[part]

    def _open(self, part: str) -> Images:
        # To skip files, all bad ones must be known before training: headers do not show them all.
        thorough = self.on_bad_image == "skip"
        shape: Any = {"in_chans": self.in_chans, "size": self.size, "framing": self.framing}
        how: Any = {"memory_gb": self.memory_gb, "thorough": thorough}
        if self.labels:
            task: Any = {"task": self.task, "target": self.target}
            images = labelled_images(self.labels, self.data_dir, self.class_names, **shape, **task)
            return open_images(images, self.data_dir, **how)
        if self.dataset == "shards":
            names = None if self.unlabelled else self.class_names
            return open_shards(part, self.data_dir, names, **shape, thorough=thorough)
        how |= {"allow_empty": self.allow_empty, "unlabelled": self.unlabelled}
        how |= {"num_classes": len(self.class_names), **shape}
        return read_part(self.dataset, part, self.data_dir, **how)
