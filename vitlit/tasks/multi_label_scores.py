"""Scores of images that may have several classes each, and the thresholds that decide which.

probabilities (n, K), targets (n, K) of 0 and 1 -> average precision (K,), F1 (K,), thresholds (K,)

An image has a class if its probability is above the threshold of the class.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.tasks.task import Combine

DEFAULT_THRESHOLD = 0.5  # of a class that has no threshold of its own
CHUNK_NUMBERS = 10_000_000  # sorted at once: 80 MB for each tensor of int64


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Average precision of each class, float64 ``(K,)``; NaN for a class without positives.

    The sum over all distinct scores of precision times the step in recall, as scikit-learn's
    average_precision_score: no interpolation, and equal scores count together.
    """
    found = []
    for _, hits, last in _sorted_columns(scores, targets):
        right = hits.cumsum(0)
        precision = right.gather(0, last) / (last + 1).double()  # at the last of the equal scores
        found.append((hits * precision).sum(0) / right[-1])  # 0 / 0 is NaN
    return torch.cat(found)


def best_thresholds(probabilities: Tensor, targets: Tensor) -> Tensor:
    """The threshold of each class that has the highest F1, float32 ``(K,)``.

    Half-way between the two probabilities that it divides; the highest of several equally good
    ones; 0.5 for a class without positives.
    """
    found = []
    for values, hits, last in _sorted_columns(probabilities.float(), targets):
        right = hits.cumsum(0).gather(0, last)
        f1 = 2 * right / (last + 1 + hits.sum(0)).double()
        best = last.gather(0, f1.argmax(0, keepdim=True))  # the lowest row that is kept, (1, k)
        upper = values.gather(0, best)
        below = torch.cat([values, torch.zeros_like(values[:1])])
        lower = below.gather(0, best + 1)
        middle = (upper + lower) / 2
        # of neighbours in float32 the middle may be the upper one, which would be left out
        threshold = torch.where(middle < upper, middle, lower)[0]
        found.append(threshold.masked_fill(hits.sum(0) == 0, DEFAULT_THRESHOLD))
    return torch.cat(found)


def _sorted_columns(scores: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For some classes at once, each ``(n, k)`` from the highest score of a class on.

    scores; whether each is a positive, int64; the row of the last equal score.
    """
    rows = len(scores)
    width = max(1, CHUNK_NUMBERS // max(rows, 1))
    for own, hits in zip(*(torch.split(x, width, 1) for x in (scores, targets)), strict=True):
        values, order = own.sort(dim=0, descending=True, stable=True)
        place = torch.arange(rows, device=own.device)[:, None]
        is_last = torch.ones_like(values, dtype=torch.bool)
        is_last[:-1] = values[:-1] != values[1:]
        # of each row the next row that is the last of its equals
        last = torch.where(is_last, place, rows).flip(0).cummin(0).values.flip(0)
        yield values, hits.gather(0, order).long(), last


def counts(predicted: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each class, int64 ``(K,)``: images rightly given it, given it, and that have it."""
    given, has = predicted.bool(), targets > 0
    return (given & has).sum(0), given.sum(0), has.sum(0)


def f1_scores(right: Tensor, given: Tensor, has: Tensor) -> Tensor:
    """F1 from :func:`counts`; 0 where a class is neither given nor there, as in scikit-learn."""
    return 2 * right / (given + has).clamp(min=1)


class MultiLabelScores:
    """Loss, mean average precision and mean F1 of a split; keeps its logits, on the device.

    thresholds: float32 ``(K,)``. The mean average precision is over the classes that have images;
    the mean F1 over those that have images or are given to one.
    """

    def __init__(self, thresholds: Tensor) -> None:
        self.thresholds = thresholds
        self.reset()

    def reset(self, device: torch.device | None = None) -> None:
        """Forget all images."""
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """logits ``(B, K)``; targets int8 ``(B, K)``, negative in rows that do not count."""
        self._logits.append(logits.float())
        self._targets.append(targets)

    def compute(
        self, sum_up: Combine = lambda own: own, gather: Combine = lambda own: own
    ) -> dict[str, Tensor]:
        """count, loss, map and f1; 0 without images. Several processes gather their rows."""
        logits, targets = (gather(torch.cat(rows)) for rows in (self._logits, self._targets))
        counted = targets[:, 0] >= 0
        logits, targets = logits[counted], targets[counted]
        self.probabilities, self.targets = logits.sigmoid(), targets
        found = {name: logits.new_zeros(()) for name in ("loss", "map", "f1")}
        count = logits.new_full((), len(logits))
        if not len(logits):
            return found | {"count": count}
        right, given, has = counts(self.probabilities > self.thresholds.to(logits), targets)
        is_there = (given + has) > 0
        f1 = f1_scores(right, given, has)
        precision = average_precision(logits, targets)
        return {
            "count": count,
            "loss": F.binary_cross_entropy_with_logits(logits, targets.to(logits)),
            "map": precision.nanmean().nan_to_num().float(),
            "f1": f1[is_there].mean() if bool(is_there.any()) else found["f1"],
        }


class MultiLabelSums:
    """Loss and F1 over all labels in an epoch of training, summed on the device.

    float32 ``(5,)``: loss, labels rightly given, given, and wanted, and images. A label is given
    above 0.5, and wanted where the target, which mixing makes soft, is at least 0.5.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(5, device=device)

    def add(
        self, loss: Tensor, logits: Tensor, targets: Tensor, teacher: Tensor | None = None
    ) -> None:
        """One batch: its mean loss, logits ``(B, K)`` and targets ``(B, K)``."""
        given, wanted = logits.detach() > 0, targets >= 0.5
        images = torch.full_like(self._sums[0], len(logits))  # on the device: a copy would wait
        parts = [(given & wanted).sum(), given.sum(), wanted.sum(), images]
        self._sums += torch.stack([loss.detach().float() * images, *parts])

    def sums(self) -> Tensor:
        """The sums so far."""
        return self._sums

    def restore(self, sums: Tensor) -> None:
        """Continue from the sums of an interrupted epoch."""
        self._sums.copy_(sums)

    def means(self, sum_up: Combine = lambda own: own) -> dict[str, Tensor]:
        """The averages so far: loss_epoch and f1."""
        loss, right, given, wanted, images = sum_up(self._sums).unbind()
        return {"loss_epoch": loss / images, "f1": f1_scores(right, given, wanted)}
