"""The training loss: of the labels, with a weight for each class where asked, and of a teacher.

logits (B, K), labels (B,) or (B, K), shares (B, K), a teacher's logits (B, K) -> loss
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


def distillation(
    logits: Tensor, teacher: Tensor, *, temperature: float = 1.0, hard: bool = False
) -> Tensor:
    """How far the answers are from a teacher's, averaged over the batch: ``()``.

    logits, teacher: ``(B, K)``. The Kullback-Leibler divergence of the teacher's probabilities from
    the student's, both at the temperature, times its square (Hinton et al., 2015); hard: the
    cross-entropy of the teacher's most likely class (Touvron et al., 2021, equation 3).
    """
    if hard:
        return F.cross_entropy(logits, teacher.argmax(dim=1))
    wanted = (teacher.float() / temperature).log_softmax(dim=1)
    found = (logits.float() / temperature).log_softmax(dim=1)
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def positive_weights(targets: Tensor) -> Tensor:
    """Weight of the positives of each class, float32 ``(K,)``: its negatives by its positives.

    targets: ``(n, K)`` of 0 and 1. Images with a class then count as much as those without it; of a
    class that all images have, there is nothing to balance.
    """
    positives = (targets > 0).sum(dim=0)
    weights = (len(targets) - positives) / positives.clamp(min=1)
    return weights.masked_fill(positives == len(targets), 1.0).float()


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy averaged over the batch and the classes, ``()``.

    logits, targets: ``(B, K)``; targets may be between 0 and 1, as MixUp and CutMix make them.
    smoothing: pulls all targets towards 0.5 by this share; weights: of the positives of a class.
    """
    wanted = targets.to(logits.dtype) * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights)
