"""Exactly one of K classes for each image: the task of class folders, and the usual one.

one class name a row -> targets int64 (n,) -> cross-entropy; accuracy; softmax (B, K)
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from vitlit.errors import InputError
from vitlit.tasks.loss import balanced_weights, cross_entropy
from vitlit.tasks.metrics import Scores, TrainSums
from vitlit.tasks.multi_label import MIN_SHARE, table_hint
from vitlit.tasks.task import Label, Row, Task


class SingleLabel(Task):
    """Each image is of one class."""

    name = "single_label"
    dtype = torch.int64
    column = noun = "class"
    monitors = ("acc", "balanced_acc", "loss")
    shown = ("acc", "acc5", "loss")

    @classmethod
    def label_columns(cls, head: Sequence[str], rows: Sequence[Row]) -> list[str]:
        return [cls.column] if cls.column in head else []

    @classmethod
    def hint(cls, head: Sequence[str], rows: Sequence[Row]) -> str:
        if "classes" in head:
            return "; its column classes is of the task multi_label"
        return table_hint(head, rows)

    @classmethod
    def read_labels(cls, columns: Sequence[str], rows: Sequence[Row]) -> list[Label]:
        found = []
        for row in rows:
            label = (row.cells[cls.column] or "").strip()
            if not label:
                raise InputError(f"{row.place}: {row.name} has no class; give it one")
            found.append(label)
        return found

    @classmethod
    def names_in(cls, labels: Iterable[Label], columns: Sequence[str]) -> list[str]:
        return sorted(set(labels))

    @classmethod
    def targets(cls, labels: Sequence[Label], names: Sequence[str]) -> Tensor:
        numbers = {name: number for number, name in enumerate(names)}
        return torch.tensor([numbers[label] for label in labels])

    @classmethod
    def target_words(cls, target: Tensor, names: Sequence[str]) -> str:
        """Its class; of a mixed target each class with its share, the largest first."""
        if target.ndim == 0:
            return names[int(target)]
        order = target.argsort(descending=True, stable=True).tolist()
        shares = [(names[k], float(target[k])) for k in order if float(target[k]) >= MIN_SHARE]
        if len(shares) == 1:
            return shares[0][0]
        return ", ".join(f"{name} {share:.2f}" for name, share in shares)

    @classmethod
    def strata(cls, targets: Tensor) -> Tensor:
        return targets

    @classmethod
    def images_of(cls, targets: Tensor, outputs: int) -> Tensor:
        return targets.bincount(minlength=outputs)

    @property
    def loss(self) -> Callable[..., Tensor]:
        return cross_entropy

    def loss_weights(self, targets: Tensor, outputs: int) -> Tensor:
        return balanced_weights(targets, outputs)

    def epoch_sums(self, device: torch.device) -> TrainSums:
        return TrainSums(device)

    def scores(self, outputs: int) -> Scores:
        return Scores(outputs)

    def answers(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)
