"""What features are worth: k-nearest-neighbour and linear accuracy; tensors in, numbers out.

features (n, D), labels (n,) of training images -> predictions (m,) for other features (m, D)
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ROWS = 1024  # rows that are compared with all others at a time
FIT_ROWS = 65536  # rows of a step of the linear fit that are in memory at a time
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # C that are tried, stronger regularisation first
MAX_FIT_STEPS = 1000  # of LBFGS at most
FLOAT32_FROM = 10**8  # numbers from which on the fit is in float32


class Neighbours(NamedTuple):
    """Of each query the nearest rows: cosine similarity and row, ``(m, k)``, nearest first."""

    similarity: Tensor
    row: Tensor


class LinearClassifier(NamedTuple):
    """A linear classifier: weight ``(K, D)``, bias ``(K,)``."""

    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Classes int64 ``(m,)``."""
        return F.linear(features.to(self.weight), self.weight, self.bias).argmax(dim=1).cpu()


def nearest(queries: Tensor, rows: Tensor, k: int) -> Neighbours:
    """The k rows most alike to each query by cosine, of ``(m, D)`` and ``(n, D)``."""
    unit = F.normalize(rows, dim=1)
    parts = [
        (F.normalize(chunk, dim=1) @ unit.T).topk(min(k, len(rows)), dim=1)
        for chunk in torch.split(queries, CHUNK_ROWS)
    ]
    similarity = torch.cat([part.values for part in parts])
    return Neighbours(similarity.cpu(), torch.cat([part.indices for part in parts]).cpu())


def vote(neighbours: Neighbours, labels: Tensor, num_classes: int) -> Tensor:
    """The most frequent class among the neighbours, the first of several: int64 ``(m,)``."""
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
    """Multinomial logistic regression with an L2 penalty, all images in each step (LBFGS).

    Minimises c * (sum of the cross-entropies) + |weight|^2 / 2, as scikit-learn's
    LogisticRegression(C=c) does; the bias is not penalised. start: where to begin.
    """
    is_exact = features.numel() <= FLOAT32_FROM and features.device.type != "mps"
    x = features.double() if is_exact else features.float()
    y = labels.to(x.device)
    weight = x.new_zeros(num_classes, x.shape[1]) if start is None else start.weight.clone()
    bias = x.new_zeros(num_classes) if start is None else start.bias.clone()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=MAX_FIT_STEPS,
        max_eval=2 * MAX_FIT_STEPS,
        tolerance_grad=1e-7 if is_exact else 1e-5,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def loss_and_gradients() -> Tensor:
        optimizer.zero_grad()
        total = weight.square().sum() / (2 * c * len(y))
        total.backward()  # type: ignore[no-untyped-call]
        loss = total.detach()
        for part, target in zip(torch.split(x, FIT_ROWS), torch.split(y, FIT_ROWS), strict=True):
            share = F.cross_entropy(F.linear(part, weight, bias), target, reduction="sum") / len(y)
            share.backward()  # type: ignore[no-untyped-call]
            loss = loss + share.detach()
        return loss

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss_and_gradients)  # type: ignore[no-untyped-call]
    return LinearClassifier(weight.detach(), bias.detach())


def choose_linear(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], num_classes: int
) -> tuple[LinearClassifier, float]:
    """The linear classifier, and its C, that has the most validation images right.

    train, val: features and labels. Each fit starts from the one before; of equal ones the more
    strongly regularised is taken.
    """
    best, best_c, most = None, STRENGTHS[0], -1
    fitted: LinearClassifier | None = None
    for c in STRENGTHS:
        fitted = fit_linear(*train, num_classes, c=c, start=fitted)
        right = int((fitted.predict(val[0]) == val[1].cpu()).sum())
        if right > most:
            best, best_c, most = fitted, c, right
    assert best is not None
    return best, best_c
