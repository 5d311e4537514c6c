"""The training loss, with a weight for each class where classes are unbalanced.

logits (B, K), labels (B,) or shares (B, K) -> loss
"""

import torch.nn.functional as F
from torch import Tensor


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Weight of each class, float32 ``(K,)``: n / (K n_k), so that all classes count alike.

    labels: int64 ``(n,)``. The weights average 1 over the images if no class is empty; an empty
    class has weight 0. The formula is that of scikit-learn's ``class_weight="balanced"``.
    """
    counts = labels.bincount(minlength=num_classes)
    weights = len(labels) / (num_classes * counts.clamp(min=1))
    return weights.masked_fill(counts == 0, 0.0).float()


def cross_entropy(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy averaged over the batch, ``()``, in which class k counts ``weights[k]`` times.

    logits: ``(B, K)``. targets: labels int64 ``(B,)``, or shares of the classes ``(B, K)`` that sum
    to 1, as MixUp and CutMix make them. smoothing: share of the target spread over all classes.
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    # torch's own mean divides labels by the sum of their weights, but shares by B. Dividing both by
    # B makes labels and shares agree, and one process agree with several.
    total = F.cross_entropy(
        logits, targets, weight=weights, label_smoothing=smoothing, reduction="sum"
    )
    return total / len(logits)
