"""What training and evaluation count: over samples, rows that only fill up a batch left out.

logits (B, num_classes), labels (B,), IGNORED where a row does not count -> loss, top-1, top-5,
                                                                            balanced accuracy
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy

IGNORED = -1  # label of rows that do not count
COUNTED_TOGETHER = 20  # training batches: a dozen small operations cost less once than each time


class TrainSums:
    """Loss and accuracy of an epoch of training, summed on the device.

    sums: float32 ``(4,)``: loss, right at first, right among five, samples.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(4, device=device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, logits, targets

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """One batch: its mean loss, logits ``(B, K)``, targets ``(B,)`` or mixed ``(B, K)``."""
        self._waiting.append((loss.detach(), logits.detach(), targets))
        if len(self._waiting) == COUNTED_TOGETHER:
            self.sums()

    def sums(self) -> Tensor:
        """The sums, once the waiting batches, all of one size, are in them."""
        if self._waiting:
            losses, logits, targets = (list(column) for column in zip(*self._waiting, strict=True))
            self._waiting.clear()
            labels = torch.cat([y.argmax(dim=1) if y.ndim == 2 else y for y in targets])
            both = torch.cat(logits)
            top = both.topk(min(5, both.shape[1])).indices == labels[:, None]  # (n, 5)
            loss = torch.stack(losses).float().mean()
            count = torch.full_like(loss, len(labels))  # filled there: copying would wait
            self._sums += torch.stack([loss * count, top[:, 0].sum(), top.sum(), count])
        return self._sums

    def restore(self, sums: Tensor) -> None:
        """Go on from sums of before."""
        self._sums = sums.to(self._sums)
        self._waiting.clear()


class BalancedAccuracy(Metric):
    """Mean recall of the classes that have images, as scikit-learn's balanced_accuracy_score."""

    full_state_update = False
    right: Tensor
    images: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("right", "images"):
            self.add_state(name, torch.zeros(num_classes), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """logits ``(B, K)``; targets ``(B,)``, IGNORED where a row does not count."""
        counts = (targets != IGNORED).to(self.images)
        places = targets.clamp(min=0)
        self.images.index_add_(0, places, counts)
        self.right.index_add_(0, places, counts * (logits.argmax(dim=1) == targets))

    def compute(self) -> Tensor:
        has_images = self.images > 0
        recall = self.right / self.images.clamp(min=1)
        return recall.sum() / has_images.sum().clamp(min=1)


def score_metrics(num_classes: int) -> MetricCollection:
    """Loss, top-1 and, where it says something, top-5 accuracy, over samples; balanced accuracy."""
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "average": "micro",
        "ignore_index": IGNORED,
        "validate_args": False,
    }
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": MeanMetric(),
        "count": SumMetric(),
        "acc": MulticlassAccuracy(**options),
        "balanced_acc": BalancedAccuracy(num_classes),
    }
    if num_classes > 5:
        metrics["acc5"] = MulticlassAccuracy(top_k=5, **options)
    return MetricCollection(metrics, compute_groups=False)
