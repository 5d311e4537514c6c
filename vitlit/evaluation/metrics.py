"""Metrics of training and evaluation, averaged over samples; rows that fill a batch do not count.

logits (B, num_classes), labels (B,), IGNORED for rows that do not count -> loss, top-1, top-5,
                                                                            balanced accuracy
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy

IGNORED = -1  # label of rows that do not count
# training batches that are counted at once: a dozen small operations cost less once than each time
COUNTED_TOGETHER = 20


class TrainSums:
    """Loss and accuracy of an epoch of training, summed on the device.

    :meth:`sums` gives float32 ``(4,)``: loss, top-1 hits, top-5 hits, samples.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(4, device=device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, logits, targets

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """One batch: its mean loss, logits ``(B, K)``, targets ``(B,)`` or mixed ``(B, K)``."""
        # detached: the graph of twenty batches would stay in memory
        self._waiting.append((loss.detach(), logits.detach(), targets))
        if len(self._waiting) == COUNTED_TOGETHER:
            self.sums()

    def sums(self) -> Tensor:
        """The sums, with the waiting batches, which must all be of one size, added."""
        if self._waiting:
            losses, logits, targets = (list(column) for column in zip(*self._waiting, strict=True))
            self._waiting.clear()
            # of mixed targets the larger part is the label
            labels = torch.cat([y.argmax(dim=1) if y.ndim == 2 else y for y in targets])
            both = torch.cat(logits)
            top = both.topk(min(5, both.shape[1])).indices == labels[:, None]  # (n, 5)
            loss = torch.stack(losses).float().mean()  # batches are of one size, so means average
            # filled on the device: copying a number there would wait for it
            count = torch.full_like(loss, len(labels))
            self._sums += torch.stack([loss * count, top[:, 0].sum(), top.sum(), count])
        return self._sums

    def restore(self, sums: Tensor) -> None:
        """Continue from the sums of an interrupted epoch."""
        self._sums = sums.to(self._sums)
        self._waiting.clear()


class BalancedAccuracy(Metric):
    """Mean recall of the classes that have images, as scikit-learn's balanced_accuracy_score."""

    full_state_update = False  # counts add up: torchmetrics need not update twice
    right: Tensor
    images: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("right", "images"):
            self.add_state(name, torch.zeros(num_classes), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """logits ``(B, K)``; targets ``(B,)``, IGNORED for rows that do not count."""
        # added as 0, not selected: a selection waits for the device to tell its size
        counts = (targets != IGNORED).to(self.images)
        places = targets.clamp(min=0)  # IGNORED is no index
        self.images.index_add_(0, places, counts)
        self.right.index_add_(0, places, counts * (logits.argmax(dim=1) == targets))

    def compute(self) -> Tensor:
        has_images = self.images > 0
        recall = self.right / self.images.clamp(min=1)
        return recall.sum() / has_images.sum().clamp(min=1)


def score_metrics(num_classes: int) -> MetricCollection:
    """Loss, top-1, top-5 (of more than 5 classes) and balanced accuracy, over samples."""
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "average": "micro",
        "ignore_index": IGNORED,
        "validate_args": False,  # looking at the labels' values would wait for the device
    }
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": MeanMetric(),
        "count": SumMetric(),
        "acc": MulticlassAccuracy(**options),
        "balanced_acc": BalancedAccuracy(num_classes),
    }
    if num_classes > 5:  # of five classes or fewer it is always 1
        metrics["acc5"] = MulticlassAccuracy(top_k=5, **options)
    # no groups: they share states between metrics, but each one here is updated on its own
    return MetricCollection(metrics, compute_groups=False)
