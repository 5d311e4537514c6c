"""Duplicates: images that are equal, pixel by pixel, and images that look the same.

fingerprints of n images -> groups of two or more images -> pairs to report

Images look the same if their perceptual hashes differ in at most ``MAX_BITS`` of 64 bits and their
thumbnails correlate as those of different images of the set do not: the hash finds candidates among
all pairs, the thumbnail, which has colour, confirms them.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitlit.inspection.fingerprints import Fingerprints, centred

MAX_BITS = 7
# The correlation that confirms a pair lies between these. It is nearer to 1 than that of an image
# with its nearest neighbour usually is, by this factor: handwritten digits are alike without being
# copies, photographs are not. Values chosen on CIFAR-10, MNIST and the digits.
LEAST_CORRELATION, MOST_CORRELATION, UNUSUAL = 0.95, 0.99, 0.2
SAMPLE_QUERIES, SAMPLE_IMAGES = 500, 20_000  # from which the usual correlation is measured
CHUNK_BITS, CHUNKS = 16, 4  # a hash is looked up by each of its quarters
BLOCK_PAIRS = 1 << 21  # candidates that are compared at a time
MAX_OF_HASH = 8  # images of one hash that are compared with those of another
Numbers = NDArray[Any]


class Pair(NamedTuple):
    """Two images of n, by their places; bits: in which their hashes differ, 0 if they are equal."""

    first: int
    second: int
    bits: int


def equal_pairs(digests: Sequence[bytes]) -> list[Pair]:
    """The first image of each digest, with each of the others."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        groups[digest].append(place)
    return [Pair(group[0], other, 0) for group in groups.values() for other in group[1:]]


def needed_correlation(
    vectors: Tensor, *, most: float = MOST_CORRELATION, factor: float = UNUSUAL
) -> float:
    """The correlation of thumbnails from which on images of this set count as the same.

    vectors: of length 1, ``(n, D)``; most: the result at most; factor: how much nearer to 1 it is
    than that of most images with their nearest neighbour.
    """
    if len(vectors) < 3:
        return LEAST_CORRELATION
    spread = torch.linspace(0, len(vectors) - 1, min(len(vectors), SAMPLE_IMAGES)).round().long()
    sample = vectors[spread]
    queries = sample[:: -(-len(sample) // SAMPLE_QUERIES)]
    nearest = (queries @ sample.T).topk(2, dim=1).values[:, 1]  # the first is the image itself
    usual = 1 - float(nearest.quantile(0.75))
    return min(most, max(LEAST_CORRELATION, 1 - factor * usual))


def similar_pairs(prints: Fingerprints) -> list[Pair]:
    """Pairs of images that look the same and are not equal; equal ones stand for each other."""
    digests: dict[bytes, int] = {}
    for place, digest in enumerate(prints.digests):
        digests.setdefault(digest, place)
    alone = torch.tensor(sorted(digests.values()), dtype=torch.long)
    pairs = close_pairs(prints.hashes[alone].numpy(), MAX_BITS)
    if not len(pairs):
        return []
    vectors = centred(prints.thumbnails[alone])  # the largest array here: 3 KB for each image
    enough = needed_correlation(vectors)
    first, second, bits = torch.from_numpy(pairs).unbind(1)
    found: list[Pair] = []
    for rows in torch.split(torch.arange(len(pairs)), BLOCK_PAIRS // 64):
        alike = (vectors[first[rows]] * vectors[second[rows]]).sum(dim=1) >= enough
        kept = rows[alike]
        columns = (alone[first[kept]], alone[second[kept]], bits[kept])
        found += [Pair(*row) for row in torch.stack(columns, dim=1).tolist()]
    return found


def close_pairs(hashes: Numbers, most: int) -> Numbers:
    """Pairs of 64-bit hashes that differ in at most ``most`` bits (7): int64 ``(m, 3)``, i < j.

    Of hashes that many images share, the first images stand for all in pairs with other hashes.
    """
    order = np.argsort(hashes, kind="stable")
    distinct, start, count = np.unique(hashes[order], return_index=True, return_counts=True)
    within = _same_hash(order, start, count)
    parts = [within, *_pairs_of_others(order, distinct.view(np.uint64), start, count, most)]
    found = np.concatenate(parts)
    found[:, :2].sort(axis=1)
    return np.unique(found, axis=0)


def _same_hash(order: Numbers, start: Numbers, count: Numbers) -> Numbers:
    """Each image of a hash with the one before it, and with the first."""
    rank = np.arange(len(order)) - np.repeat(start, count)
    later = np.flatnonzero(rank)
    before = np.stack([order[later - 1], order[later]], axis=1)
    first = np.stack([order[later - rank[later]], order[later]], axis=1)
    both = np.concatenate([before, first])
    return np.concatenate([both, np.zeros((len(both), 1), both.dtype)], axis=1)


def _pairs_of_others(
    order: Numbers, distinct: Numbers, start: Numbers, count: Numbers, most: int
) -> Iterator[Numbers]:
    """Pairs of images with different hashes, of which ``distinct`` is the sorted list."""
    for first, second, bits in _close_hashes(distinct, most):
        for i in range(MAX_OF_HASH):
            for j in range(MAX_OF_HASH):
                both = (count[first] > i) & (count[second] > j)
                if not both.any():
                    break
                a, b = order[start[first[both]] + i], order[start[second[both]] + j]
                yield np.stack([a, b, bits[both]], axis=1)


def _close_hashes(distinct: Numbers, most: int) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
    """Pairs of different hashes, by their places, and the number of bits between them."""
    # Of eight bits that differ, two are in one quarter, or more. With at most seven there is a
    # quarter with one or none: so it is enough to compare hashes of which a quarter is the same, or
    # differs in one bit (multi-index hashing, Norouzi et al., 2012).
    assert most < 2 * CHUNKS
    masks = np.array([0, *(1 << bit for bit in range(CHUNK_BITS))], dtype=np.int64)
    for chunk in range(CHUNKS):
        shift = np.uint64(chunk * CHUNK_BITS)
        values = ((distinct >> shift) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(values, kind="stable")
        counts = np.bincount(values, minlength=1 << CHUNK_BITS)
        starts = np.cumsum(counts) - counts
        for mask in masks:
            wanted = values ^ mask
            for rows, hits in _expanded(starts[wanted], counts[wanted]):
                other = order[hits]
                rows, other = rows[rows < other], other[rows < other]
                bits = popcount(distinct[rows] ^ distinct[other])
                near = bits <= most
                yield rows[near], other[near], bits[near]


def _expanded(starts: Numbers, counts: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """For each row all places from its start on, as many as it counts, in blocks: row, place."""
    totals = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        before = totals[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(totals, before + BLOCK_PAIRS)))
        own = counts[begin:end]
        rows = np.repeat(np.arange(begin, begin + len(own)), own)
        offset = np.arange(len(rows)) - np.repeat(np.cumsum(own) - own, own)
        yield rows, starts[rows] + offset
        begin = end


def popcount(numbers: Numbers) -> Numbers:
    """How many bits of each uint64 are set: int64."""
    # by adding neighbouring bits, pairs and so on; NumPy has no function for it before version 2
    masks = (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F)
    one, two, four = (np.uint64(mask) for mask in masks)
    found = numbers - ((numbers >> np.uint64(1)) & one)
    found = (found & two) + ((found >> np.uint64(2)) & two)
    found = (found + (found >> np.uint64(4))) & four
    return ((found * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)


class Duplicate(NamedTuple):
    """A pair to report: how it is alike in words, in how many bits the hashes differ."""

    first: int
    second: int
    kind: str
    bits: int


SAME_FILE, SAME_PIXELS, LOOKS_SAME = "same file", "same pixels", "looks the same"
ALIKE_BY_FEATURES = "nearly equal features"


def listed(pairs: Sequence[Duplicate], split: Tensor) -> list[Duplicate]:
    """As few of the pairs as connect the same images: those between splits first, nearest first.

    split: int64 ``(n,)``, of each image. Every image that has a duplicate in another split stays in
    a pair with one of them.
    """
    groups: dict[int, int] = {}

    def root(image: int) -> int:
        while groups.setdefault(image, image) != image:
            groups[image] = groups[groups[image]]
            image = groups[image]
        return image

    numbers = split.tolist()
    kinds = (SAME_FILE, SAME_PIXELS, LOOKS_SAME, ALIKE_BY_FEATURES)

    def rank(pair: Duplicate) -> tuple[bool, int, int, int]:
        is_within = numbers[pair.first] == numbers[pair.second]
        return is_within, kinds.index(pair.kind), pair.bits, pair.first

    found = []
    for pair in sorted(pairs, key=rank):
        first, second = root(pair.first), root(pair.second)
        if first != second:
            groups[second] = first
            found.append(pair)
    return found
