"""Any number of K classes for each image, none among them.

several names in a cell, or a column of 0 and 1 for each class -> targets int8 (n, K) of 0 and 1
-> binary cross-entropy; mean average precision, F1; sigmoid (B, K); a threshold for each class
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitlit.errors import InputError, first_few
from vitlit.files import printable
from vitlit.tasks.loss import binary_cross_entropy, positive_weights
from vitlit.tasks.multi_label_scores import (
    DEFAULT_THRESHOLD,
    MultiLabelScores,
    MultiLabelSums,
    best_thresholds,
)
from vitlit.tasks.task import Label, Row, Task

SEPARATORS = ";|"
FILE_COLUMN, ONE_CLASS_COLUMN, TARGET_COLUMN = "file", "class", "target"
NO_CLASS = "none"  # in words, of an image that has none of the classes
MIN_SHARE = 0.005  # of a class in a mixed target, from which on it is named
COMMON_SET = 10  # images of one set of labels from which on it is a stratum of its own


class MultiLabel(Task):
    """Each image has any number of the classes."""

    name = "multi_label"
    dtype = torch.int8
    column, noun = "classes", "classes"
    gives = "classes"
    least_outputs = 1  # an image has that class, or has it not
    monitors = ("map", "f1", "loss")
    shown = ("map", "f1", "loss")
    missing: ClassVar = {
        "teacher": "a teacher's answers are learned as those of one class for each image, and "
        "these images have several; leave out teacher",
        "shots": "shots counts images of one class, and these images have several; give "
        "train_fraction",
        "abstain_below": "abstain_below withholds the one class of an image, and these images have "
        "several, each with a threshold; give thresholds",
        "web": "format web shows one class for each image, and this model gives several; give "
        "format onnx",
        "compare": "compare tests accuracies, and these models give an image several classes; "
        "compare the reports of test",
    }

    @classmethod
    def label_columns(cls, head: Sequence[str], rows: Sequence[Row]) -> list[str]:
        if cls.column in head:
            return [cls.column]
        if ONE_CLASS_COLUMN in head:
            cells = (row.cells[ONE_CLASS_COLUMN] or "" for row in rows)
            has_several = any(mark in cell for cell in cells for mark in SEPARATORS)
            return [ONE_CLASS_COLUMN] if has_several else []
        if TARGET_COLUMN in head:  # numbers, perhaps beside columns that say other things
            return []
        columns = [name for name in head if name != FILE_COLUMN]
        # one row is enough: what is wrong in the others is then said, with its place
        is_table = any(all(row.cells[name] in ("0", "1") for name in columns) for row in rows)
        return columns if len(columns) > 1 and is_table else []

    @classmethod
    def hint(cls, head: Sequence[str], rows: Sequence[Row]) -> str:
        if ONE_CLASS_COLUMN in head:
            return (
                f"; its column {ONE_CLASS_COLUMN} gives each image one class: name the column "
                f"{cls.column} if an image has no others"
            )
        return table_hint(head, rows)

    @classmethod
    def read_labels(cls, columns: Sequence[str], rows: Sequence[Row]) -> list[Label]:
        if columns[0] not in (cls.column, ONE_CLASS_COLUMN):
            return [_marked_classes(row, columns) for row in rows]
        cells = [(row, row.cells[columns[0]] or "") for row in rows]
        used = [mark for mark in SEPARATORS if any(mark in cell for _, cell in cells)]
        if len(used) > 1:
            row, cell = next((row, cell) for row, cell in cells if used[1] in cell)
            raise InputError(
                f"{row.place}: {printable(cell)!r} separates classes by {used[1]!r}, and other "
                f"cells do by {used[0]!r}; use one of them in the whole file"
            )
        return [_listed_classes(row, cell, (used or [";"])[0]) for row, cell in cells]

    @classmethod
    def words(cls, label: Label) -> str:
        return ";".join(sorted(label)) or NO_CLASS

    @classmethod
    def names_in(cls, labels: Iterable[Label], columns: Sequence[str]) -> list[str]:
        if columns[0] not in (cls.column, ONE_CLASS_COLUMN):
            if odd := [name for name in columns if SEPARATORS[0] in name]:
                raise InputError(
                    f"the column {printable(odd[0])} has a {SEPARATORS[0]!r} in its name, which "
                    f"separates the classes of an image in predictions; rename it"
                )
            return list(columns)
        return sorted(set().union(*labels))

    @classmethod
    def targets(cls, labels: Sequence[Label], names: Sequence[str]) -> Tensor:
        numbers = {name: number for number, name in enumerate(names)}
        targets = torch.zeros(len(labels), len(names), dtype=cls.dtype)
        for place, label in enumerate(labels):
            targets[place, [numbers[name] for name in label]] = 1
        return targets

    @classmethod
    def target_words(cls, target: Tensor, names: Sequence[str]) -> str:
        """Its classes, separated as in labels.csv, with a share where mixing has left a part."""
        places = (target >= MIN_SHARE).nonzero()[:, 0].tolist()
        shares = [(names[k], float(target[k])) for k in places]
        words = [name if share > 1 - MIN_SHARE else f"{name} {share:.2f}" for name, share in shares]
        return f"{SEPARATORS[0]} ".join(words) or NO_CLASS

    @classmethod
    def strata(cls, targets: Tensor) -> Tensor:
        """A group for each common set of labels, and 0 for the images of all rare ones."""
        _, group, count = torch.unique(targets, dim=0, return_inverse=True, return_counts=True)
        return torch.where(count[group] < COMMON_SET, 0, group + 1)

    @classmethod
    def images_of(cls, targets: Tensor, outputs: int) -> Tensor:
        return (targets > 0).sum(dim=0)

    @classmethod
    def check_training(cls, targets: Tensor, names: Sequence[str]) -> None:
        """Refuse a class without images: nothing would be learned of it but never to give it."""
        empty = (cls.images_of(targets, len(names)) == 0).nonzero()[:, 0].tolist()
        if empty:
            raise InputError(
                f"no training image has the class {first_few([names[i] for i in empty])}; give it "
                f"images, leave it out of the labels, or give another split_seed",
                argument="split_seed",
            )

    @property
    def loss(self) -> Callable[..., Tensor]:
        return binary_cross_entropy

    def loss_weights(self, targets: Tensor, outputs: int) -> Tensor:
        return positive_weights(targets)

    def unfitted(self) -> "MultiLabel":
        return MultiLabel({**self.settings, "thresholds": None})

    def fitted(self, scores: MultiLabelScores) -> dict[str, Any]:
        if not len(scores.targets):
            return {}
        return {"thresholds": best_thresholds(scores.probabilities, scores.targets).tolist()}

    def epoch_sums(self, device: torch.device) -> MultiLabelSums:
        return MultiLabelSums(device)

    def scores(self, outputs: int) -> MultiLabelScores:
        return MultiLabelScores(self.thresholds(outputs))

    def answers(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def given(self, answers: Tensor) -> Tensor:
        return answers > self.thresholds(len(answers)).to(answers.device)

    def shown_classes(self, logits: Tensor) -> list[int]:
        probabilities = self.answers(logits).cpu()
        given = self.given(probabilities).tolist()
        order = probabilities.argsort(descending=True, stable=True).tolist()
        return [k for k in order if given[k]] or order[:1]

    def told(self, outputs: int) -> dict[str, Any]:
        return {"task": self.name, "thresholds": self.thresholds(outputs).tolist()}

    def output_words(self) -> str:
        return (
            ", one for each class by itself: its sigmoid is the probability, and above its "
            "threshold an image has the class"
        )

    def thresholds(self, outputs: int) -> Tensor:
        """The threshold of each class, float32 ``(K,)``."""
        given = self.settings.get("thresholds")
        return torch.tensor(given or [DEFAULT_THRESHOLD] * outputs, dtype=torch.float32)


def check_thresholds(thresholds: list[float], task: str, outputs: int) -> None:
    """Raise InputError for thresholds that are no shares, not one for each class, or unused."""
    if task != MultiLabel.name:
        raise InputError(
            f"thresholds decide about several classes of an image, and the task is {task}; leave "
            f"them out",
            argument="thresholds",
        )
    odd = [value for value in thresholds if not 0 <= value <= 1]
    if odd or len(thresholds) != outputs:
        raise InputError(
            f"thresholds {first_few(list(map(str, thresholds)))} are not {outputs} numbers from 0 "
            f"to 1, one for each class; give these, or leave them out",
            argument="thresholds",
        )


def table_hint(head: Sequence[str], rows: Sequence[Row]) -> str:
    """What to add for a table of 0 and 1 that has other columns too; empty for other tables."""
    names = [name for name in head if name != FILE_COLUMN]
    odd = {name for name in names for row in rows if (row.cells[name] or "") not in ("0", "1", "")}
    if not odd or len(names) - len(odd) < 2:
        return ""
    found = first_few([printable(name) for name in names if name in odd])
    return (
        f"; to give each image several classes by columns of 0 and 1, remove what is none of "
        f"them: {found}"
    )


def _marked_classes(row: Row, columns: Sequence[str]) -> frozenset[str]:
    """The columns of a row that hold 1."""
    for name in columns:
        if (row.cells[name] or "").strip() not in ("0", "1"):
            raise InputError(
                f"{row.place}: {printable(row.cells[name] or '')!r} in column {printable(name)} is "
                f"neither 0 nor 1, which say whether {row.name} has that class; leave out columns "
                f"that are no classes"
            )
    return frozenset(name for name in columns if (row.cells[name] or "").strip() == "1")


def _listed_classes(row: Row, cell: str, separator: str) -> frozenset[str]:
    """The classes that a cell lists; an empty cell lists none."""
    names = [name.strip() for name in cell.split(separator)] if cell.strip() else []
    if "" in names or len(set(names)) < len(names):
        raise InputError(
            f"{row.place}: {printable(cell)!r} names a class twice or a class without a name; "
            f"write each class of {row.name} once, separated by {separator!r}"
        )
    return frozenset(names)
