"""What the targets of a data set say, by kind of label: counts, groups, and what is odd in them.

Inventory -> rows of counts by split, groups of training images, sentences, doubtful labels
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from vitlit.errors import InputError, first_few
from vitlit.files import printable
from vitlit.inspection.inventory import Inventory
from vitlit.inspection.label_check import (
    FEW_NEIGHBOURS,
    NEIGHBOURS,
    Doubt,
    LabelCheck,
    check_each_class,
    check_labels,
)
from vitlit.tasks.task import TaskName

UNEQUAL = 20  # times as many images as the smallest class has, from which on the largest is named
BINS, GROUPS = 10, 5  # of numbers: of equal width, to count; of equally many images, to show
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # quantiles of numbers
SHARE_NAMES = ("min", "lower_quartile", "median", "upper_quartile", "max")
AGREEMENT = f"all nearest neighbours of the image ({NEIGHBOURS}, or {FEW_NEIGHBOURS} in small sets)"


class Remarks(NamedTuple):
    """Sentences to act on, and to know."""

    act: list[str]
    know: list[str]


class ClassFacts:
    """Each image has one class."""

    column: ClassVar[str] = "class"  # heading of the rows of counts
    noun: ClassVar[str] = "label"  # what an image has, in sentences
    rows_are: ClassVar[str] = "of each class"  # the pictures in a row of the sheet
    doubt = "all nearest neighbours of the image agree on another class"
    rule = f"A label is doubted if {AGREEMENT} agree on another class."

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory

    def title(self) -> str:
        """How many classes there are, for the line about the images; begins with a space."""
        return f" of {len(self.inventory.class_names)} classes"

    def class_counts(self) -> Tensor:
        """Images by class and split: int64 ``(K, splits)``."""
        own = self.inventory
        count = len(own.splits)
        cells = own.label * count + own.split
        return cells.bincount(minlength=len(own.class_names) * count).view(-1, count)

    def counts(self) -> tuple[list[str], Tensor]:
        """Names of the rows, and images by row and split, int64 ``(rows, splits)``."""
        return list(self.inventory.class_names), self.class_counts()

    def quantiles(self) -> dict[str, dict[str, float]]:
        """Of numbers alone: their quantiles by split."""
        return {}

    def numbers(self) -> dict[str, Any]:
        """For inspection.json: the counts by name and split, and what the task adds."""
        names, counts = self.counts()
        splits = self.inventory.split_names
        rows = zip(names, counts.tolist(), strict=True)
        return {"counts": {name: dict(zip(splits, row, strict=True)) for name, row in rows}}

    def groups(self) -> dict[str, Tensor]:
        """Places of the training images that a row of the sheet shows some of, by its name."""
        labels = self.inventory.splits["train"].labels
        names = self.inventory.class_names
        return {name: (labels == k).nonzero()[:, 0] for k, name in enumerate(names)}

    def remarks(self) -> Remarks:
        """What is odd about the counts."""
        return Remarks(self._empty(), self._unequal())

    def _empty(self) -> list[str]:
        counts, own = self.class_counts(), self.inventory
        found = []
        is_empty = (counts == 0).all(dim=1)
        if nowhere := [printable(own.class_names[k]) for k in is_empty.nonzero()[:, 0].tolist()]:
            found.append(
                f"There is no image of class {first_few(nowhere)}. A training refuses to start "
                f"until there is, or until the folder of that class is gone."
            )
        for i, name in enumerate(own.split_names):
            is_missing = (counts[:, i] == 0) & ~is_empty
            none = [printable(own.class_names[k]) for k in is_missing.nonzero()[:, 0].tolist()]
            if none:
                found.append(
                    f"The {name} split has no image of class {first_few(none)}. Its scores say "
                    f"nothing about that class."
                )
        return found

    def _unequal(self) -> list[str]:
        own = self.inventory
        train = self.class_counts()[:, own.split_names.index("train")]
        low, high = int(train.argmin()), int(train.argmax())
        if not train[low] or train[high] < UNEQUAL * train[low]:
            return []
        common, rare = (printable(own.class_names[k]) for k in (high, low))
        return [
            f"Class {common} has {int(train[high]):,} training images, class {rare} has "
            f"{int(train[low]):,}. class_weights balanced helps the rare ones."
        ]

    def contradictions(self, pairs: Sequence[tuple[int, int]]) -> str:
        """What is wrong with duplicates whose targets differ, after how many there are."""
        return "with two different labels. At least one label of each pair is wrong."

    def check(self, features: Tensor) -> LabelCheck:
        """Labels that the neighbours contradict; features: ``(n, D)``."""
        return check_labels(features, self.inventory.label, self.inventory.prints.digests)

    def doubt_words(self, doubt: Doubt) -> str:
        """What the neighbours of a doubtful image are."""
        return self.inventory.class_names[doubt.label]


class MultiLabelFacts(ClassFacts):
    """Each image has any number of classes."""

    doubt = (
        "the image has a class that none of its nearest neighbours has, or lacks one that all of "
        "them have"
    )
    rule = (
        f"A class is doubted that {AGREEMENT} have and the image lacks, or the reverse. An image "
        f"counts once for each of its classes."
    )

    def title(self) -> str:
        alone = int(self._without_class().sum())
        return f"{super().title()}, {alone:,} with none of them"

    def class_counts(self) -> Tensor:
        own = self.inventory
        has = (own.label > 0).long()
        columns = [has[own.split == i].sum(dim=0) for i in range(len(own.splits))]
        return torch.stack(columns, dim=1)

    def _without_class(self) -> Tensor:
        """Images without a class, by split: int64 ``(splits,)``."""
        own = self.inventory
        alone = ~(own.label > 0).any(dim=1)
        return own.split[alone].bincount(minlength=len(own.splits))

    def counts(self) -> tuple[list[str], Tensor]:
        names, counts = super().counts()
        return [*names, "(none of them)"], torch.cat([counts, self._without_class()[None]])

    def numbers(self) -> dict[str, Any]:
        names, counts = self.inventory.class_names, self.class_counts().tolist()
        splits = self.inventory.split_names
        rows = [*zip(names, counts, strict=True), ("", self._without_class().tolist())]
        table = {name: dict(zip(splits, row, strict=True)) for name, row in rows[:-1]}
        return {"counts": table, "without_class": dict(zip(splits, rows[-1][1], strict=True))}

    def groups(self) -> dict[str, Tensor]:
        labels = self.inventory.splits["train"].labels
        names = self.inventory.class_names
        found = {name: labels[:, k].nonzero()[:, 0] for k, name in enumerate(names)}
        alone = (labels == 0).all(dim=1).nonzero()[:, 0]
        return found | ({"(none of them)": alone} if len(alone) else {})

    def check(self, features: Tensor) -> LabelCheck:
        own = self.inventory
        return check_each_class(features, own.label, own.class_names, own.prints.digests)

    def doubt_words(self, doubt: Doubt) -> str:
        return f"{'' if doubt.has else 'not '}{self.inventory.class_names[doubt.label]}"


class NumberFacts(ClassFacts):
    """Each image has a number."""

    column = "target"
    noun = "target"
    rows_are = "by their targets"
    doubt = ""
    rule = ""

    def title(self) -> str:
        values = self.inventory.label
        name = printable(self.inventory.class_names[0])
        return f" with {name} from {values.min():.6g} to {values.max():.6g}"

    def counts(self) -> tuple[list[str], Tensor]:
        """A histogram over the range of all targets."""
        own = self.inventory
        values = own.label[:, 0].double()
        edges = torch.linspace(values.min(), values.max(), BINS + 1, dtype=torch.float64)
        if edges[0] == edges[-1]:
            edges = edges[:2]
        bins = (torch.bucketize(values, edges, right=True) - 1).clamp(0, len(edges) - 2)
        count = len(own.splits)
        table = (bins * count + own.split).bincount(minlength=(len(edges) - 1) * count)
        return _ranges(edges), table.view(-1, count)

    def quantiles(self) -> dict[str, dict[str, float]]:
        own = self.inventory
        found = {}
        for i, name in enumerate(own.split_names):
            values = own.label[own.split == i, 0].double().sort().values
            if len(values):
                # by rank: torch's quantile refuses more than 16 million numbers
                places = [round(share * (len(values) - 1)) for share in SHARES]
                found[name] = dict(zip(SHARE_NAMES, values[places].tolist(), strict=True))
        return found

    def numbers(self) -> dict[str, Any]:
        return super().numbers() | {"targets": self.quantiles()}

    def groups(self) -> dict[str, Tensor]:
        """Equally many images in each, from the lowest targets to the highest."""
        values = self.inventory.splits["train"].labels[:, 0]
        order = values.argsort(stable=True)
        parts = [part for part in torch.tensor_split(order, GROUPS) if len(part)]
        return {_range(values[part[0]], values[part[-1]]): part for part in parts}

    def remarks(self) -> Remarks:
        own, act = self.inventory, []
        train = own.splits["train"].labels
        try:
            if len(train):
                own.kind.check_training(train, own.class_names)
        except InputError as error:
            act.append(f"fit would refuse these targets: {printable(str(error))}.")
        return Remarks(act, self._outside(train))

    def _outside(self, train: Tensor) -> list[str]:
        """Sentences about the splits whose targets leave the range of the training images."""
        found = []
        for name, split in self.inventory.splits.items():
            if not len(train) or not len(split):
                continue
            low, high = train.min(), train.max()
            count = int(((split.labels < low) | (split.labels > high)).sum())
            if count:
                found.append(
                    f"{count:,} of {len(split):,} targets of the {name} split lie outside those of "
                    f"the training images, {_range(low, high)}: nothing teaches a model about them."
                )
        return found

    def contradictions(self, pairs: Sequence[tuple[int, int]]) -> str:
        label = self.inventory.label[:, 0]
        most = max(float((label[a] - label[b]).abs()) for a, b in pairs)
        return f"with two different targets, which differ by up to {most:.6g}. Check them."

    def check(self, features: Tensor) -> LabelCheck:
        return LabelCheck([], 0, "neighbours are compared by class, and these images have numbers")


FACTS: dict[TaskName, type[ClassFacts]] = {
    "single_label": ClassFacts,
    "multi_label": MultiLabelFacts,
    "regression": NumberFacts,
}


def _range(low: Tensor, high: Tensor) -> str:
    # nine digits tell all numbers of float32 apart
    return f"{low:.9g}" if low == high else f"{low:.9g} to {high:.9g}"


def _ranges(edges: Tensor) -> list[str]:
    return [_range(*ends) for ends in pairwise(edges)]
