"""A number for each image, such as an age or a count: regression.

cells of one column -> targets float32 (n, 1) -> loss of standardised targets; answers (B, 1) in the
                                                 unit of the column

The model's one output is standardised: answer = output * target_std + target_mean, with the mean
and standard deviation of the training images, which every checkpoint keeps.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.errors import InputError, check_choice
from vitlit.tasks.regression_scores import RegressionScores, RegressionSums
from vitlit.tasks.task import Label, LossName, Row, Task

DEFAULT_LOSS: LossName = "mse"
# Of each element, by name; Huber's border lies at one standard deviation of the training targets.
ELEMENT_LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.huber_loss,
}
STRATA = 10  # groups of equally many images, by their rank
MIN_SPREAD = 1e-5  # standard deviation over size: below it float32 hardly tells targets apart
MAX_SIZE = 1e30  # of a target: its square must be a float32
WHY_UNUSED = {  # by the name of a setting
    "class_weights": "weights classes, and regression has none",
    "label_smoothing": "spreads the target over classes, and regression has none",
}


class Regression(Task):
    """Each image has one number."""

    name = "regression"
    dtype = torch.float32
    column = "target"
    noun = "target"
    gives = "number"
    ignored = math.nan  # any number may be a target
    monitors = ("mae", "rmse", "r2", "loss")
    shown = ("mae", "rmse", "r2", "loss")
    missing: ClassVar = {
        "teacher": "teacher gives probabilities of classes, and regression has none; leave it out",
        "abstain_below": "abstain_below compares probabilities of classes, and regression has "
        "none; leave it out",
        "web": "format web shows probabilities of classes, and regression has none; give format "
        "onnx or pt2",
        "shots": "shots counts images of each class, and regression has none; give train_fraction",
    }
    unused: ClassVar = {"class_weights": "none", "label_smoothing": 0}

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        for name, nothing in self.unused.items():
            if (value := settings.get(name, nothing)) != nothing:
                raise InputError(
                    f"{name} {value} {WHY_UNUSED[name]}; give {nothing}", argument=name
                )
        self.loss_name = settings.get("loss") or DEFAULT_LOSS
        check_choice(tuple(ELEMENT_LOSSES), loss=self.loss_name)
        mean, std = settings.get("target_mean"), settings.get("target_std")
        check_statistics(mean, std)
        self.has_loss = std is not None
        # of exported weights, whose head gives the unit itself, there are none
        self.mean: float = 0.0 if mean is None else mean
        self.std: float = 1.0 if std is None else std

    @classmethod
    def label_columns(cls, head: Sequence[str], rows: Sequence[Row]) -> list[str]:
        # beside a class, a column of this name may be anything
        return [cls.column] if cls.column in head and "class" not in head else []

    @classmethod
    def read_labels(cls, columns: Sequence[str], rows: Sequence[Row]) -> list[Label]:
        (column,) = columns
        return [_number(row, column) for row in rows]

    @classmethod
    def words(cls, label: Label) -> str:
        return f"{label:g}"

    @classmethod
    def names_in(cls, labels: Iterable[Label], columns: Sequence[str]) -> list[str]:
        return list(columns)

    @classmethod
    def targets(cls, labels: Sequence[Label], names: Sequence[str]) -> Tensor:
        return torch.tensor(labels, dtype=cls.dtype)[:, None]

    @classmethod
    def target_words(cls, target: Tensor, names: Sequence[str]) -> str:
        return f"{float(target):.6g}"

    @classmethod
    def strata(cls, targets: Tensor) -> Tensor:
        """Groups of equally many images, from the lowest targets to the highest."""
        groups = max(1, min(STRATA, len(targets) // 2))
        rank = torch.empty(len(targets), dtype=torch.long)
        rank[targets[:, 0].argsort(stable=True)] = torch.arange(len(targets))
        return rank * groups // max(1, len(targets))

    @classmethod
    def images_of(cls, targets: Tensor, outputs: int) -> Tensor:
        return torch.full((outputs,), len(targets))

    @classmethod
    def check_training(cls, targets: Tensor, names: Sequence[str]) -> None:
        values = targets.double()
        low, high = values.min().item(), values.max().item()
        if low == high:
            raise InputError(
                f"the column {names[0]} has the value {low:g} for all {len(values)} training "
                f"images, which teaches nothing; give another column",
                argument="target",
            )
        if values.std().item() < MIN_SPREAD * values.abs().max().item():
            raise InputError(
                f"the column {names[0]} goes from {low:.9g} to {high:.9g}, which differ by too "
                f"little for their size; subtract a constant from all of them, such as {low:.9g}",
                argument="target",
            )

    @property
    def loss(self) -> Callable[..., Tensor]:
        return standardised_loss(self.loss_name, self.mean, self.std)

    def learned(self, targets: Tensor) -> dict[str, Any]:
        if self.settings.get("target_std") is not None:
            return {}  # of the training that goes on, whatever images have come since
        values = targets.double()
        return {
            "target_mean": values.mean().item(),
            "target_std": values.std(correction=0).item(),
        }

    def epoch_sums(self, device: torch.device) -> RegressionSums:
        return RegressionSums(device, self.mean, self.std)

    def scores(self, outputs: int) -> RegressionScores:
        element = ELEMENT_LOSSES[self.loss_name]
        return RegressionScores(element, self.mean, self.std, has_loss=self.has_loss)

    def answers(self, logits: Tensor) -> Tensor:
        return logits.float() * self.std + self.mean

    def told(self, outputs: int) -> dict[str, Any]:
        return {"task": self.name}  # a self-contained head needs no other settings

    def output_words(self) -> str:
        return ", numbers in the unit of the training's column"

    def self_contained(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """With a head whose output is in the unit of the column."""
        if "head.weight" not in state:
            return state
        weight, bias = state["head.weight"].cpu(), state["head.bias"].cpu()
        return {
            **state,
            "head.weight": (weight.double() * self.std).to(state["head.weight"]),
            "head.bias": (bias.double() * self.std + self.mean).to(state["head.bias"]),
        }

    def in_training(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        # a head of zeros is a new one, for the standardised output
        is_kept = self.settings.get("pretrained") and bool(state["head.weight"].any())
        return self.with_settings(state) if is_kept else state

    def with_settings(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        weight, bias = state["head.weight"].cpu(), state["head.bias"].cpu()
        return {
            **state,
            "head.weight": (weight.double() / self.std).to(state["head.weight"]),
            "head.bias": ((bias.double() - self.mean) / self.std).to(state["head.bias"]),
        }


def standardised_loss(name: str, mean: float, std: float) -> Callable[..., Tensor]:
    """The loss of outputs ``(B, 1)`` and targets ``(B, 1)``, which it standardises: their mean."""
    element = ELEMENT_LOSSES[name]

    def loss(
        logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        # float32: differences of bfloat16 keep two to three digits
        return element(logits.float(), (targets.float() - mean) / std)

    return loss


def check_statistics(mean: float | None, std: float | None) -> None:
    """Refuse a mean and standard deviation of targets that no training could have found."""
    if (mean is None) != (std is None):
        raise InputError(
            f"target_mean {mean} and target_std {std} belong together; give both, or leave both "
            f"to the training",
            argument=("target_mean", "target_std"),
        )
    if mean is not None and not math.isfinite(mean):
        raise InputError(f"target_mean {mean} is not finite; leave it out", argument="target_mean")
    if std is not None and not 0 < std < math.inf:
        raise InputError(
            f"target_std {std} is not positive; leave it out, or give one above 0",
            argument="target_std",
        )


def _number(row: Row, column: str) -> float:
    """The number in a row's cell. Raises InputError for what is none."""
    text = (row.cells[column] or "").strip()
    if not text:
        raise InputError(
            f"{row.place}: {row.name} has no {column}; give it a number, or remove the line"
        )
    try:
        value = float(text)
    except ValueError:
        comma = ", with a point before the decimals" if "," in text else ""
        raise InputError(
            f"{row.place}: {column} {text!r} is not a number; correct it{comma}"
        ) from None
    if not math.isfinite(value):
        raise InputError(
            f"{row.place}: {column} {text} is not a finite number; correct it, or remove the line"
        )
    if abs(value) > MAX_SIZE:
        raise InputError(
            f"{row.place}: {column} {text} is above {MAX_SIZE:g} in size; give it in a larger unit"
        )
    return value
