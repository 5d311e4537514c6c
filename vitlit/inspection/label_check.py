"""Labels that the neighbours of an image contradict.

features (n, D), labels (n,) -> images whose nearest neighbours all have one other class
features (n, D), targets (n, K) of several classes -> images that have a class that none of their
                                                      neighbours has, or lack one that all have

An image is doubtful only if all of its neighbours agree on a class that is not its own, and if
neighbours that agree are nearly always right in this set. Where the features do not tell the
classes apart, as small pixels do not for photographs, nothing is reported.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.errors import first_few

NEIGHBOURS, FEW_NEIGHBOURS = 10, 5  # that have to agree; fewer where classes are small
LARGE_CLASS = 50  # images in the median class, from which on the former are asked
CHUNK_ROWS = 256  # images compared with all others at a time
MAX_IMAGES = 100_000  # that are compared; of more, these are chosen evenly
# Shares of the images with agreeing neighbours that may have another label, in the whole set and in
# the class that the neighbours name: with more, neighbours cannot be trusted.
MAX_SHARE, MAX_CLASS_SHARE = 0.05, 0.2
# Share of the images with a class, or without it, that agreeing neighbours may contradict: of a
# rare class that the features do not show, they contradict every image that has it.
MAX_OWN_SHARE = 0.1


class Doubt(NamedTuple):
    """An image whose neighbours have another class: its place, that class, and their places.

    has: whether they have the class; of several classes an image may have one that they lack.
    """

    image: int
    label: int
    neighbours: Sequence[int]
    has: bool = True


class LabelCheck(NamedTuple):
    """The doubts, the clearest first; checked: images that were compared; reason: which labels were
    not checked, or why none were if the neighbours cannot be trusted, else empty."""

    doubts: Sequence[Doubt]
    checked: int
    reason: str


def check_labels(features: Tensor, labels: Tensor, digests: Sequence[bytes]) -> LabelCheck:
    """Search for images with doubtful labels.

    features: ``(n, D)``; digests: of the pixels; of equal images the first alone is a neighbour.
    """
    rows = _different(digests)
    k, reason = _needed(labels[rows].bincount())
    if reason:
        return LabelCheck([], 0, reason)
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


def check_each_class(
    features: Tensor, targets: Tensor, class_names: Sequence[str], digests: Sequence[bytes]
) -> LabelCheck:
    """Search for images of several classes that have a doubtful one, or lack one.

    features: ``(n, D)``; targets: ``(n, K)`` of 0 and 1; digests: of the pixels.
    """
    rows = _different(digests)
    has = targets[rows] > 0  # (n, K)
    k, reason = _needed(has.sum(dim=0))
    if reason:
        return LabelCheck([], 0, reason)
    near, similarity = nearest_others(features[rows], k)
    closeness = similarity.mean(dim=1)
    found: list[tuple[float, Doubt]] = []
    unsure = []
    for label, name in enumerate(class_names):
        own = has[:, label]
        theirs = own[near]  # (n, k)
        all_have, none_has = theirs.all(dim=1), ~theirs.any(dim=1)
        lacking, odd = all_have & ~own, none_has & own
        shares = (
            _share(lacking | odd, all_have | none_has) / MAX_SHARE,
            _share(lacking, all_have) / MAX_CLASS_SHARE,
            _share(lacking, (all_have | none_has) & ~own) / MAX_OWN_SHARE,
            _share(odd, (all_have | none_has) & own) / MAX_OWN_SHARE,
        )
        if max(shares) > 1:
            unsure.append(name)
            continue
        for i in (lacking | odd).nonzero()[:, 0].tolist():
            doubt = Doubt(int(rows[i]), label, rows[near[i]].tolist(), bool(lacking[i]))
            found.append((float(closeness[i]), doubt))
    found.sort(key=lambda pair: -pair[0])  # stable: of one image by class
    which = f"neighbours do not tell reliably which images have {first_few(unsure)}"
    return LabelCheck([doubt for _, doubt in found], len(rows), which if unsure else "")


def _share(part: Tensor, whole: Tensor) -> float:
    return int(part.sum()) / max(1, int(whole.sum()))


def _different(digests: Sequence[bytes]) -> Tensor:
    """The places of different images, of equal ones the first; of very many some, evenly spread."""
    first: dict[bytes, int] = {}
    for place, digest in enumerate(digests):
        first.setdefault(digest, place)
    rows = torch.tensor(sorted(first.values()), dtype=torch.long)
    if len(rows) > MAX_IMAGES:
        rows = rows[torch.linspace(0, len(rows) - 1, MAX_IMAGES).round().long()]
    return rows


def _needed(images: Tensor) -> tuple[int, str]:
    """How many neighbours have to agree, and why labels cannot be checked, else empty.

    images: of each class.
    """
    found = images[images > 0]
    usual = int(found.median()) if len(found) else 0
    k = NEIGHBOURS if usual >= LARGE_CLASS else FEW_NEIGHBOURS
    return k, "" if usual > k else f"half of the classes have {usual} images or fewer"


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
