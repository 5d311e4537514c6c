"""The training loss, with a weight for each class where classes are unbalanced.

logits (B, K), labels (B,) or shares (B, K) -> loss
"""

import torch.nn.functional as F
from torch import Tensor


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Weight of each class, float32 ``(K,)``: n / (K n_k), so that all classes count alike.

    labels: int64 ``(n,)``. The mean weight of the images is 1 where no class is empty; the weight
    of an empty one is 0.
    """
    counts = labels.bincount(minlength=num_classes)
    weights = len(labels) / (num_classes * counts.clamp(min=1))
    return weights.masked_fill(counts == 0, 0.0).float()


def cross_entropy(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Mean over the batch of the cross-entropy, class k counting ``weights[k]`` times.

    targets: labels int64 ``(B,)`` or shares of classes ``(B, K)``. The sum is divided by the number
    of images, not by the sum of their weights, so labels and shares, and one process and many,
    give the same.
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    total = F.cross_entropy(
        logits, targets, weight=weights, label_smoothing=smoothing, reduction="sum"
    )
    return total / len(logits)
