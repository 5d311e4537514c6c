"""Scores of numbers: mean absolute error, root mean squared error, R2; and their intervals.

outputs (B, 1), targets (B, 1) -> sums -> scores | answers (n,), targets (n,) -> intervals
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vitlit.tasks.metrics import COUNTED_TOGETHER
from vitlit.tasks.task import Combine

RESAMPLES = 2000  # of the bootstrap
SAME_TARGETS = 1e-12  # variance, as a share of the mean square: nothing but rounding
ROUNDING = 1e4  # units of rounding that a sum over many images may be off
RESAMPLED_TOGETHER = 2**22  # draws of it in memory at a time


class RegressionSums:
    """Loss and absolute error in an epoch of training, summed on the device.

    :meth:`sums` gives float32 ``(3,)``: loss, absolute error in units of ``std``, and samples.
    """

    def __init__(self, device: torch.device, mean: float, std: float) -> None:
        self.mean, self.std = mean, std
        self._sums = torch.zeros(3, device=device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, outputs, targets

    def add(
        self, loss: Tensor, logits: Tensor, targets: Tensor, teacher: Tensor | None = None
    ) -> None:
        """One batch: its mean loss, outputs ``(B, 1)``, targets ``(B, 1)``; there is no teacher."""
        self._waiting.append((loss.detach(), logits.detach(), targets))
        if len(self._waiting) == COUNTED_TOGETHER:
            self.sums()

    def sums(self) -> Tensor:
        """The sums, with the waiting batches, which must all be of one size, added."""
        if self._waiting:
            losses, outputs, targets = (list(column) for column in zip(*self._waiting, strict=True))
            self._waiting.clear()
            wanted = (torch.cat(targets).float() - self.mean) / self.std
            error = (torch.cat(outputs).float() - wanted).abs().sum()
            loss = torch.stack(losses).float().mean()  # batches are of one size, so means average
            count = torch.full_like(loss, len(wanted))
            self._sums += torch.stack([loss * count, error, count])
        return self._sums

    def means(self, sum_up: Combine = lambda own: own) -> dict[str, Tensor]:
        """The averages so far: loss_epoch, and mae in the unit of the targets."""
        loss, error, count = self.sums().unbind()
        return {"loss_epoch": loss / count, "mae": error / count * self.std}

    def restore(self, sums: Tensor) -> None:
        """Continue from the sums of an interrupted epoch."""
        self._sums.copy_(sums)
        self._waiting.clear()


class RegressionScores:
    """Loss, MAE, RMSE and R2 of a split, over samples, summed on the device of the outputs.

    element: the loss function, with ``reduction``; mean, std: those that standardise targets. MAE
    and RMSE are in the unit of the targets; R2 is 0 where all targets are equal, which leaves it
    undefined. has_loss: whether mean and std are those of a training, without which its loss cannot
    be told.
    """

    def __init__(
        self, element: Callable[..., Tensor], mean: float, std: float, *, has_loss: bool = True
    ) -> None:
        self.element, self.mean, self.std, self.has_loss = element, mean, std, has_loss
        self.reset()

    def reset(self, device: torch.device | None = None) -> None:
        """Forget all images."""
        # Apple's GPUs have no float64
        exact = torch.float32 if device is not None and device.type == "mps" else torch.float64
        # count, loss, |error|, error^2, target, target^2; all standardised: a sum of squares of
        # numbers far from 0 would lose the digits that R2 is made of
        self.totals = torch.zeros(6, dtype=exact, device=device)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """logits ``(B, 1)``; targets ``(B, 1)``, NaN for rows that do not count."""
        if self.totals.device != logits.device:  # the first batch
            self.reset(logits.device)
        counts = ~targets.isnan()
        # added as 0, not selected: a selection waits for the device to tell its size
        wanted = ((targets.to(self.totals) - self.mean) / self.std).nan_to_num(0.0)
        output = torch.where(counts, logits.to(self.totals), wanted)
        error = output - wanted
        loss = self.element(output, wanted, reduction="sum")
        self.totals += torch.stack(
            [
                counts.sum().to(self.totals),
                loss,
                error.abs().sum(),
                error.square().sum(),
                wanted.sum(),
                wanted.square().sum(),
            ]
        )

    def compute(
        self, sum_up: Combine = lambda own: own, gather: Combine = lambda own: own
    ) -> dict[str, Tensor]:
        """loss if known, count, mae, rmse, r2; with several processes each must call it."""
        count, loss, error, squares, total, total_squares = sum_up(self.totals).unbind()
        images = count.clamp(min=1)
        spread = total_squares - total.square() / images
        # the difference of two sums: what rounding leaves of it is no spread
        is_flat = spread <= ROUNDING * torch.finfo(spread.dtype).eps * total_squares
        r2 = torch.where(is_flat, 0.0, 1 - squares / torch.where(is_flat, 1.0, spread))
        found = {
            "loss": loss / images,
            "count": count,
            "mae": error / images * self.std,
            "rmse": (squares / images).sqrt() * self.std,
            "r2": r2,
        }
        if not self.has_loss:
            del found["loss"]
        return {name: value.float() for name, value in found.items()}


def error_scores(answers: Tensor, targets: Tensor) -> dict[str, float]:
    """mae, rmse and r2 of answers and targets, both ``(n,)``; r2 is 0 if all targets are equal."""
    wanted = targets.double()
    error = answers.double() - wanted
    spread = (wanted - wanted.mean()).square().sum()
    r2 = 0.0 if spread == 0 else 1 - (error.square().sum() / spread).item()
    return {
        "mae": error.abs().mean().item(),
        "rmse": error.square().mean().sqrt().item(),
        "r2": r2,
    }


def bootstrap_means(columns: Tensor, key: int = 0) -> Tensor:
    """Means of columns ``(n, k)`` over ``RESAMPLES`` draws of n rows with replacement.

    Returns float64 ``(RESAMPLES, k)``; the same key draws the same rows.
    """
    count = len(columns)
    generator = torch.Generator().manual_seed(key)
    each = max(1, RESAMPLED_TOGETHER // count)
    found = []
    for start in range(0, RESAMPLES, each):
        rows = min(each, RESAMPLES - start)
        places = torch.randint(count, (rows, count), generator=generator)
        found.append(columns.double()[places].mean(dim=1))
    return torch.cat(found)


def interval_of(values: Tensor) -> list[float]:
    """The 95 % interval of resampled values ``(r,)``, some perhaps NaN: quantiles .025, .975."""
    ends = torch.nanquantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype))
    low, high = ends.tolist()
    return [low, high]


def error_intervals(answers: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """95 % bootstrap intervals of mae, rmse and r2: images are drawn again, with replacement."""
    wanted = targets.double()
    middle = wanted.mean()
    error, about = answers.double() - wanted, wanted - middle
    columns = torch.stack([error.abs(), error.square(), about, about.square()], dim=1)
    mae, squares, mean, mean_squares = bootstrap_means(columns).unbind(1)
    spread = mean_squares - mean.square()
    # a draw of one image alone, or of equal targets, has no R^2: left out
    flat = spread <= SAME_TARGETS * mean_squares
    r2 = (1 - squares / spread).masked_fill(flat, torch.nan)
    found = {"mae": mae, "rmse": squares.sqrt(), "r2": r2}
    if not about.any():
        found["r2"] = torch.zeros_like(mae)
    return {name: interval_of(values) for name, values in found.items()}
