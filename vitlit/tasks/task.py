"""What a task must provide: everything that depends on the kind of label, and nothing else.

cells of labels.csv -> targets (n,) or (n, k) -> loss () | scores of a split | answers (B, K)

A task is one subclass of :class:`Task` in a file of its own, with a row in ``tasks/known.py``. Its
targets tell it: int64 ``(n,)`` are of single_label; every other task has targets ``(n, k)`` of a
dtype that no other task has. ``k`` may differ from the ``K`` outputs of the model.

* Reading: :meth:`Task.label_columns` says whether a table of labels is of this task,
  :meth:`Task.read_labels` what its cells say, :meth:`Task.names_in` the names of the outputs, and
  :meth:`Task.targets` makes the tensor that images carry.
* Splits: :meth:`Task.strata` groups images that a share takes equally from.
* Training: :meth:`Task.loss` of the targets, which mixing may have made soft, always ``(B, k)``
  then; :meth:`Task.loss_weights`; :meth:`Task.epoch_sums`.
* Scores: :meth:`Task.scores` of a split, and ``monitors``, those that may choose the best epoch.
* Answers: :meth:`Task.answers` turns logits into what people read, such as probabilities.
* Settings: what a task learns from the data (thresholds, a mean) are arguments of the model, plain
  values that every checkpoint keeps and each command gives back: :meth:`Task.learned` from the
  training targets, before the first step; :meth:`Task.fitted` after each validation.
* ``missing``: commands and options that the task does not support, with the reason.

What is written for people depends on it too, in tables by name: ``REPORTS`` of evaluation,
``WRITERS`` of prediction, and so on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from vitlit.errors import InputError

TaskName = Literal["single_label", "multi_label", "regression"]
LossName = Literal["mse", "l1", "huber"]  # of regression
Label = Any  # what the cells of one image say; hashable
Combine = Callable[[Tensor], Tensor]  # of one process -> of all processes


class Row(NamedTuple):
    """One line of a table of labels: where it is, for messages; its image; its cells by column."""

    place: str
    name: str
    cells: Mapping[str, str | None]


class SplitScores(Protocol):
    """Scores of a split, summed or collected on the device; nothing waits for it."""

    def reset(self, device: torch.device | None = None) -> None:
        """Forget all images."""

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """logits ``(B, K)``; targets as :meth:`Task.without_fillers` leaves them."""

    def compute(self, sum_up: Combine = ..., gather: Combine = ...) -> dict[str, Tensor]:
        """count, loss and the task's scores; each process calls it with its way to combine.

        sum_up: of equal shapes; gather: rows ``(m, ...)``, as many in each process, to all rows.
        """


class EpochSums(Protocol):
    """What an epoch of training adds up on the device, for the averages in the history."""

    def add(
        self, loss: Tensor, logits: Tensor, targets: Tensor, teacher: Tensor | None = None
    ) -> None:
        """One batch: its mean loss, logits ``(B, K)``, targets, and a teacher's logits."""

    def sums(self) -> Tensor:
        """The sums so far, float32 ``(k,)``."""

    def restore(self, sums: Tensor) -> None:
        """Continue from the sums of an interrupted epoch."""

    def means(self, sum_up: Combine = ...) -> dict[str, Tensor]:
        """By name, such as loss_epoch and acc, what is logged under ``train/``.

        Processes are averaged afterwards; what no average of theirs gives calls ``sum_up``.
        """


class Task:
    """A kind of label. settings: the arguments of the model, of which a task reads its own."""

    name: ClassVar[TaskName]
    dtype: ClassVar[torch.dtype]  # of the targets
    column: ClassVar[str]  # of labels.csv that people are told of
    noun: ClassVar[str] = "label"  # what one image has, in messages
    gives: ClassVar[Literal["class", "classes", "number"]] = "class"  # answers of one image
    least_outputs: ClassVar[int] = 2  # that a model of someone's own data must have
    ignored: ClassVar[float] = -1  # target of rows that do not count
    monitors: ClassVar[tuple[str, ...]]  # names of scores; the first is the default
    shown: ClassVar[tuple[str, ...]]  # names of the scores that the last lines print, loss too
    missing: ClassVar[Mapping[str, str]] = {}  # command or option -> why there is none
    # settings of the model that only other tasks have, and their values that ask for nothing
    unused: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    @classmethod
    def label_columns(cls, head: Sequence[str], rows: Sequence[Row]) -> list[str]:
        """The columns that hold the labels; empty if the table is not of this task."""
        raise NotImplementedError

    @classmethod
    def hint(cls, head: Sequence[str], rows: Sequence[Row]) -> str:
        """What to add to the message that a table has no columns of this task."""
        return ""

    @classmethod
    def read_labels(cls, columns: Sequence[str], rows: Sequence[Row]) -> list[Label]:
        """The label of each row. Raises InputError, with its place, for a cell without sense."""
        raise NotImplementedError

    @classmethod
    def words(cls, label: Label) -> str:
        """A label as it is written in messages."""
        return str(label)

    @classmethod
    def names_in(cls, labels: Iterable[Label], columns: Sequence[str]) -> list[str]:
        """Names of the model's outputs, in the order of the outputs."""
        raise NotImplementedError

    @classmethod
    def targets(cls, labels: Sequence[Label], names: Sequence[str]) -> Tensor:
        """The targets of images, for outputs of these names. KeyError for a class not in them."""
        raise NotImplementedError

    @classmethod
    def target_words(cls, target: Tensor, names: Sequence[str]) -> str:
        """The target of one image in words, for outputs of these names."""
        raise NotImplementedError

    @classmethod
    def strata(cls, targets: Tensor) -> Tensor:
        """A group of each image, int64 ``(n,)``: images of a group are alike."""
        raise NotImplementedError

    @classmethod
    def images_of(cls, targets: Tensor, outputs: int) -> Tensor:
        """How many images each of the model's outputs has, int64 ``(outputs,)``."""
        raise NotImplementedError

    @classmethod
    def check_training(cls, targets: Tensor, names: Sequence[str]) -> None:
        """Raise InputError for training targets from which nothing can be learned."""

    @property
    def loss(self) -> Callable[..., Tensor]:
        """The function ``(logits, targets, *, smoothing=0.0, weights=None)``: mean over the batch.

        A plain function of tensors, which the compiler takes; weights: of :meth:`loss_weights`.
        """
        raise NotImplementedError

    def loss_weights(self, targets: Tensor, outputs: int) -> Tensor:
        """For ``class_weights balanced``: float32 ``(outputs,)``, from the training targets."""
        raise NotImplementedError

    def learned(self, targets: Tensor) -> dict[str, Any]:
        """Settings that the training targets decide."""
        return {}

    def self_contained(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of a ViT that needs no settings of the task to answer, for other programs."""
        return state

    def with_settings(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse: the state of a ViT whose logits this task's settings turn into answers."""
        return state

    def in_training(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state with which a training begins, from weights that may be self-contained."""
        return state

    def unfitted(self) -> "Task":
        """The task without what earlier validations decided: it scores those of a training."""
        return self

    def fitted(self, scores: Any) -> dict[str, Any]:
        """Settings that a validation decides, from its scores, once they are computed."""
        return {}

    def epoch_sums(self, device: torch.device) -> EpochSums:
        """Sums of a new epoch."""
        raise NotImplementedError

    def scores(self, outputs: int) -> SplitScores:
        """Scores of a split, for a model of so many outputs."""
        raise NotImplementedError

    def answers(self, logits: Tensor) -> Tensor:
        """What people read, float32 ``(B, K)``, from logits in any type."""
        raise NotImplementedError

    def told(self, outputs: int) -> dict[str, Any]:
        """Settings that an export of so many outputs keeps; those of the default task are none."""
        return {}

    def output_words(self) -> str:
        """What to add to "logits (B, K)" for people who use an export; begins with a comma."""
        return ""

    def given(self, answers: Tensor) -> Tensor | None:
        """The classes of an image with answers ``(K,)``, bool ``(K,)``; None if it has just one."""
        return None

    def shown_classes(self, logits: Tensor) -> list[int]:
        """The classes of one image, logits ``(K,)``, that explanations are of; the surest first."""
        return [int(logits.argmax())]

    def without_fillers(self, targets: Tensor, valid: Tensor) -> Tensor:
        """The targets, ``ignored`` where a row only fills up a batch: valid bool ``(B,)``."""
        is_filler = ~valid if targets.ndim == 1 else ~valid[:, None]
        return targets.masked_fill(is_filler, self.ignored)

    @classmethod
    def require(cls, name: str, *, argument: str | tuple[str, ...] = ()) -> None:
        """Raise InputError if the task does not support a command or an option that is set."""
        if name in cls.missing:
            raise InputError(cls.missing[name], argument=argument)
