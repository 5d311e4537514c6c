"""Confusions of classes for tests, from a matrix that is easily read."""

from torch import Tensor

from vitlit.evaluation.scores import Confusion, pair_counts


def confusion_of(matrix: Tensor) -> Confusion:
    """The confusion that a matrix of counts shows, true classes in its rows: int64 ``(K, K)``."""
    pairs = matrix.nonzero().repeat_interleave(matrix[matrix > 0], dim=0)
    return pair_counts(pairs[:, 0], pairs[:, 1], len(matrix))
