"""Labels that the neighbours of an image contradict.

features (n, D), labels (n,) -> images whose nearest neighbours all have one other class

An image is doubtful only if all of its neighbours agree on a class that is not its own, and if
neighbours that agree are nearly always right in this set. Where the features do not tell the
classes apart, as small pixels do not for photographs, nothing is reported.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS, FEW_NEIGHBOURS = 10, 5  # that have to agree; fewer where classes are small
LARGE_CLASS = 50  # images in the median class, from which on the former are asked
CHUNK_ROWS = 256  # images compared with all others at a time
MAX_IMAGES = 100_000  # that are compared; of more, these are chosen evenly
# Shares of the images with agreeing neighbours that may have another label, in the whole set and in
# the class that the neighbours name: with more, neighbours cannot be trusted.
MAX_SHARE, MAX_CLASS_SHARE = 0.05, 0.2


class Doubt(NamedTuple):
    """An image whose neighbours have another class: its place, that class, and their places."""

    image: int
    label: int
    neighbours: Sequence[int]


class LabelCheck(NamedTuple):
    """The doubts, the clearest first; checked: images that were compared; reason: why there are no
    doubts if the neighbours cannot be trusted, else empty."""

    doubts: Sequence[Doubt]
    checked: int
    reason: str


def check_labels(features: Tensor, labels: Tensor, digests: Sequence[bytes]) -> LabelCheck:
    """Search for images with doubtful labels.

    features: ``(n, D)``; digests: of the pixels; of equal images the first alone is a neighbour.
    """
    first: dict[bytes, int] = {}
    for place, digest in enumerate(digests):
        first.setdefault(digest, place)
    rows = torch.tensor(sorted(first.values()), dtype=torch.long)
    if len(rows) > MAX_IMAGES:
        rows = rows[torch.linspace(0, len(rows) - 1, MAX_IMAGES).round().long()]
    found = labels[rows].bincount()
    usual = int(found[found > 0].median()) if len(rows) else 0
    k = NEIGHBOURS if usual >= LARGE_CLASS else FEW_NEIGHBOURS
    if usual <= k:
        return LabelCheck([], 0, f"half of the classes have {usual} images or fewer")
    near, similarity = nearest_others(features[rows], k)
    theirs = labels[rows][near]  # (n, k)
    agree = (theirs == theirs[:, :1]).all(dim=1)
    contradicts = agree & (theirs[:, 0] != labels[rows])
    share = int(contradicts.sum()) / max(1, int(agree.sum()))
    if share > MAX_SHARE:
        reason = f"of the images whose {k} nearest agree on a class, {share:.0%} have another"
        return LabelCheck([], len(rows), reason)
    size = int(labels.max()) + 1
    by_class = theirs[:, 0][contradicts].bincount(minlength=size)
    rate = by_class / theirs[:, 0][agree].bincount(minlength=size).clamp(min=1)
    is_doubtful = contradicts & (rate[theirs[:, 0]] <= MAX_CLASS_SHARE)
    places = is_doubtful.nonzero()[:, 0]
    order = places[similarity[places].mean(dim=1).argsort(descending=True, stable=True)]
    doubts = [Doubt(int(rows[i]), int(theirs[i, 0]), rows[near[i]].tolist()) for i in order]
    return LabelCheck(doubts, len(rows), "")


def nearest_others(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest rows of each row by cosine, and their similarity: ``(n, k)``, nearest first."""
    unit, count = F.normalize(features, dim=1), len(features)
    rows, values = torch.empty(count, k, dtype=torch.long), torch.empty(count, k)
    # one buffer: of new ones the memory would be freed and still not be used again
    buffer = torch.empty(min(CHUNK_ROWS, count), count)
    for start in range(0, count, CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        products = torch.mm(unit[part], unit.T, out=buffer[: len(unit[part])])
        own = torch.arange(len(products))
        products[own, start + own] = -2.0  # less than any cosine: no image is its own neighbour
        values[part], rows[part] = products.topk(k, dim=1)
    return rows, values
