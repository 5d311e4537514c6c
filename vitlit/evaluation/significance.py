"""How sure a share of right answers is, and whether two models differ: counts in, numbers out.

right, count -> interval; answers right (n,) of two models -> difference, interval, probability
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

Z95 = 1.959963984540054  # quantile 0.975 of the normal distribution
Interval = tuple[float, float]


class Difference(NamedTuple):
    """Of two models scored on the same images, the first minus the second.

    value: difference of accuracies; interval: 95 %; p: probability of a split at least as uneven
    of the images on which they disagree, were both equally good; only_first, only_second: images
    that one of them alone has right.
    """

    value: float
    interval: Interval
    p: float
    only_first: int
    only_second: int


def wilson(right: int, count: int) -> Interval:
    """95 % interval of a share, ``right`` out of ``count`` (Wilson, 1927), within [0, 1]."""
    if count == 0:
        return 0.0, 1.0
    share, square = right / count, Z95**2 / count
    centre = share + square / 2
    reach = Z95 * math.sqrt(share * (1 - share) / count + square / count / 4)
    low, high = (centre - reach) / (1 + square), (centre + reach) / (1 + square)
    return (0.0 if right == 0 else low), (1.0 if right == count else high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided probability of so uneven a split of the disagreements, by the exact binomial test.

    McNemar (1947); the exact form: were both models equally good, each image on which one alone is
    right would be a toss of a fair coin.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    log_half = -total * math.log(2)
    log_all = math.lgamma(total + 1)
    tail = math.fsum(
        math.exp(log_all - math.lgamma(k + 1) - math.lgamma(total - k + 1) + log_half)
        for k in range(fewer + 1)
    )
    return min(1.0, 2 * tail)


def compare(first: Tensor, second: Tensor) -> Difference:
    """Two models by which images each has right, bool ``(n,)`` in the same order.

    The interval is that of Bonett and Price (2012) for paired shares.
    """
    count = len(first)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    more, less = (b + 1) / (count + 2), (c + 1) / (count + 2)
    middle = more - less
    reach = Z95 * math.sqrt((more + less - middle**2) / (count + 2))
    interval = max(-1.0, middle - reach), min(1.0, middle + reach)
    return Difference((b - c) / max(count, 1), interval, mcnemar(b, c), b, c)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities of several tests, raised so that 0.05 holds for all of them (Holm, 1979)."""
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i])
    raised, highest = [0.0] * len(order), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * probabilities[i]))
        raised[i] = highest
    return raised
