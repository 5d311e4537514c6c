"""Intervals of accuracies, and tests of whether two models differ: counts in, numbers out.

right, count -> interval; right predictions (n,) of two models -> difference, interval, p
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # what sums up trainings needs no torch
    from torch import Tensor

Z95 = 1.959963984540054  # quantile 0.975 of the normal distribution
Interval = tuple[float, float]


class Difference(NamedTuple):
    """The difference of two models on the same images, the first minus the second.

    value: of the accuracies; interval: its 95 % interval; p: of McNemar's exact test, two-sided;
    only_first, only_second: number of images that only one of the two has right.
    """

    value: float
    interval: Interval
    p: float
    only_first: int
    only_second: int


def wilson(right: int, count: int) -> Interval:
    """95 % interval of an accuracy, ``right`` out of ``count`` (Wilson, 1927), within [0, 1]."""
    if count == 0:
        return 0.0, 1.0
    share, square = right / count, Z95**2 / count
    centre = share + square / 2
    reach = Z95 * math.sqrt(share * (1 - share) / count + square / count / 4)
    low, high = (centre - reach) / (1 + square), (centre + reach) / (1 + square)
    # at these two ends the formula gives exactly 0 and 1, but rounding does not
    return (0.0 if right == 0 else low), (1.0 if right == count else high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of McNemar's test (1947) in its exact, binomial form.

    If both models were equally good, each image that only one of them has right would be a toss of
    a fair coin. p is the probability of a result at least as uneven.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    # logarithms: binomial coefficients and powers of 1/2 leave the range of floats above 1,000
    log_half = -total * math.log(2)
    log_all = math.lgamma(total + 1)
    tail = math.fsum(
        math.exp(log_all - math.lgamma(k + 1) - math.lgamma(total - k + 1) + log_half)
        for k in range(fewer + 1)
    )
    return min(1.0, 2 * tail)  # an even split is in both tails


def student_quantile(freedom: int) -> float:
    """Quantile 0.975 of Student's t with this many degrees of freedom, 1 or more."""

    def inside(t: float) -> float:
        """Probability of values between -t and t (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
        angle = math.atan(t / math.sqrt(freedom))
        cosine, is_odd = math.cos(angle), freedom % 2
        term, total = (cosine if is_odd else 1.0), 0.0
        for k in range(2 + is_odd, freedom + 1, 2):
            total += term
            term *= cosine**2 * (k - 1) / k
        total *= math.sin(angle)
        return (angle + total) * 2 / math.pi if is_odd else total

    low, high = 0.0, 1.0
    while inside(high) < 0.95:
        low, high = high, 2 * high
    for _ in range(60):  # halves the interval down to the precision of floats
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < 0.95 else (low, middle)
    return high


class Spread(NamedTuple):
    """Several values of one score: mean, standard deviation (of a sample), and the 95 % interval
    of the mean by Student's t."""

    mean: float
    std: float
    interval: Interval


def spread(values: Sequence[float]) -> Spread:
    """Of two values or more."""
    count, mean = len(values), math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    reach = student_quantile(count - 1) * std / math.sqrt(count)
    return Spread(mean, std, (mean - reach, mean + reach))


def compare(first: "Tensor", second: "Tensor") -> Difference:
    """The difference of two models; first, second: which images each has right, bool ``(n,)``.

    The interval is that of Bonett and Price (2012) for paired proportions.
    """
    count = len(first)
    # the off-diagonal cells of the paired 2x2 table: the cells on which both agree cancel
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    # one image more in each cell: without it the interval has no width if the models agree
    more, less = (b + 1) / (count + 2), (c + 1) / (count + 2)
    middle = more - less
    reach = Z95 * math.sqrt((more + less - middle**2) / (count + 2))
    interval = max(-1.0, middle - reach), min(1.0, middle + reach)
    return Difference((b - c) / max(count, 1), interval, mcnemar(b, c), b, c)


def holm(probabilities: Sequence[float]) -> list[float]:
    """p values of several tests, raised so that a level holds for all together (Holm, 1979)."""
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i])
    raised, highest = [0.0] * len(order), 0.0
    for rank, i in enumerate(order):
        # the smallest is multiplied by the number of tests, the next by one less, and so on;
        # none may fall below the one before it
        highest = max(highest, min(1.0, (len(order) - rank) * probabilities[i]))
        raised[i] = highest
    return raised
