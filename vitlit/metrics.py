"""What an evaluation counts: over samples, rows that only fill up a batch left out.

logits (B, num_classes), labels (B,), IGNORED where a row does not count -> loss, top-1, top-5
"""

from typing import Any

from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy

IGNORED = -1  # label of rows that do not count


def score_metrics(num_classes: int) -> MetricCollection:
    """Loss, top-1 and, where it says something, top-5 accuracy: over samples, not classes."""
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
    }
    if num_classes > 5:
        metrics["acc5"] = MulticlassAccuracy(top_k=5, **options)
    return MetricCollection(metrics, compute_groups=False)
