"""Classifiers that measure features: k nearest neighbours, and logistic regression.

features (n, D), labels (n,) of training images -> predictions (m,) for other features (m, D)
features (n, D), targets (n, K) of several classes -> logits (m, K) of each class by itself
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ROWS = 1024  # queries compared with all rows at a time: all at once would fill the memory
FIT_ROWS = 65536  # images whose logits, and their gradients, are in memory at a time
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # values of C to try, the strongest penalty first
MAX_FIT_STEPS = 1000  # iterations of LBFGS
FLOAT32_FROM = 10**8  # with more numbers the fit is in float32, as a float64 copy takes 800 MB


class Neighbours(NamedTuple):
    """The nearest rows of each query, nearest first: cosine similarity and row, ``(m, k)``."""

    similarity: Tensor
    row: Tensor


class LinearClassifier(NamedTuple):
    """A linear classifier: weight ``(K, D)``, bias ``(K,)``."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Logits of features ``(m, D)``: ``(m, K)``, on the CPU, in the type of the weight."""
        return F.linear(features.to(self.weight), self.weight, self.bias).cpu()


def nearest(queries: Tensor, rows: Tensor, k: int) -> Neighbours:
    """The k rows of ``(n, D)`` with the highest cosine similarity to each query of ``(m, D)``.

    Fewer than k if there are fewer rows.
    """
    unit = F.normalize(rows, dim=1)
    parts = [
        (F.normalize(chunk, dim=1) @ unit.T).topk(min(k, len(rows)), dim=1)
        for chunk in torch.split(queries, CHUNK_ROWS)
    ]
    similarity = torch.cat([part.values for part in parts])
    return Neighbours(similarity.cpu(), torch.cat([part.indices for part in parts]).cpu())


def vote(neighbours: Neighbours, labels: Tensor, num_classes: int) -> Tensor:
    """The most frequent class among the neighbours, the lowest in a tie: int64 ``(m,)``."""
    near = labels[neighbours.row]  # (m, k)
    counts = torch.zeros(len(near), num_classes, dtype=torch.long)
    counts.scatter_add_(1, near, torch.ones_like(near))
    return counts.argmax(dim=1)


def fit_linear(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    c: float,
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """Logistic regression with an L2 penalty, all images in each step (LBFGS).

    labels: classes int64 ``(n,)``, for a multinomial regression; or targets of 0 and 1 ``(n, K)``,
    for one regression of each class. Minimises c * (sum of the cross-entropies) + |weight|^2 / 2,
    as scikit-learn's LogisticRegression(C=c) does, within its OneVsRestClassifier for targets; the
    bias is not penalised. start: initial weights, else zeros.
    """
    # float64 as in scikit-learn, for the tolerance below; Apple's GPUs have no float64
    is_exact = features.numel() <= FLOAT32_FROM and features.device.type != "mps"
    x = features.double() if is_exact else features.float()
    y = labels.to(x.device)
    weight = x.new_zeros(num_classes, x.shape[1]) if start is None else start.weight.clone()
    bias = x.new_zeros(num_classes) if start is None else start.bias.clone()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=MAX_FIT_STEPS,
        max_eval=2 * MAX_FIT_STEPS,  # a line search may evaluate the loss more than once
        tolerance_grad=1e-7 if is_exact else 1e-5,  # float32 does not resolve smaller gradients
        tolerance_change=0.0,  # the gradient alone ends the fit, not a small step
        line_search_fn="strong_wolfe",
    )

    def loss_and_gradients() -> Tensor:
        optimizer.zero_grad()
        # divided by c * n: a mean loss, so that one tolerance suits data sets of any size
        total = weight.square().sum() / (2 * c * len(y))
        total.backward()  # type: ignore[no-untyped-call]
        loss = total.detach()
        for part, target in zip(torch.split(x, FIT_ROWS), torch.split(y, FIT_ROWS), strict=True):
            share = _summed_loss(F.linear(part, weight, bias), target) / len(y)
            share.backward()  # type: ignore[no-untyped-call]  # part by part: frees its logits
            loss = loss + share.detach()
        return loss

    # callers may be in inference mode, where nothing can be fitted
    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss_and_gradients)  # type: ignore[no-untyped-call]
    return LinearClassifier(weight.detach(), bias.detach())


def _summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropies of images, or of all their classes for targets ``(n, K)``, summed."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, reduction="sum")
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="sum")


def count_right(logits: Tensor, labels: Tensor) -> float:
    """The number of images ``(n, K)`` whose highest logit is that of their class ``(n,)``."""
    return float((logits.argmax(dim=1) == labels.cpu()).sum())


def choose_linear(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    num_classes: int,
    score: Callable[[Tensor, Tensor], float] = count_right,
) -> tuple[LinearClassifier, float]:
    """The linear classifier with the highest score on the validation images, and its C.

    train, val: features and labels; score: of logits and labels, the accuracy by default. In a tie
    the stronger penalty wins.
    """
    best, best_c, most = None, STRENGTHS[0], -math.inf
    fitted: LinearClassifier | None = None
    for c in STRENGTHS:
        # from the solution before, which is near: the loss is convex, so only the time changes
        fitted = fit_linear(*train, num_classes, c=c, start=fitted)
        found = score(fitted.logits(val[0]), val[1])
        if found > most:  # not ">=": strengths are in order, and a tie keeps the stronger penalty
            best, best_c, most = fitted, c, found
    assert best is not None
    return best, best_c
