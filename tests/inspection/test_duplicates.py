"""Close hashes are those of a loop over all pairs; a hash is that of its definition."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import dct
from torch import Tensor

from vitlit.inspection.duplicates import (
    LOOKS_SAME,
    SAME_FILE,
    Duplicate,
    close_pairs,
    equal_pairs,
    listed,
    popcount,
    similar_pairs,
)
from vitlit.inspection.fingerprints import fingerprints, joined, perceptual_hash

MAX_BITS = 7


def bits(first: int, second: int) -> int:
    return bin((first ^ second) & (1 << 64) - 1).count("1")


def hashes(count: int) -> NDArray[np.int64]:
    """Random ones, of which a third is a few bits away from an earlier one."""
    rng = np.random.default_rng(0)
    made = rng.integers(-(2**63), 2**63 - 1, count, dtype=np.int64).view(np.uint64)
    for i in range(2 * count // 3, count):
        made[i] = made[i - count // 2]
        for bit in rng.choice(64, rng.integers(0, 11), replace=False):
            made[i] ^= np.uint64(1 << int(bit))
    return made.view(np.int64)


def test_close_hashes_are_those_of_a_loop_over_all_pairs() -> None:
    made = hashes(300)
    numbers = made.tolist()
    expected = {
        (i, j, bits(numbers[i], numbers[j]))
        for i in range(len(numbers))
        for j in range(i + 1, len(numbers))
        if bits(numbers[i], numbers[j]) <= MAX_BITS
    }
    assert {tuple(row) for row in close_pairs(made, MAX_BITS).tolist()} == expected
    assert len({row[2] for row in expected}) == MAX_BITS + 1


def test_many_equal_hashes_give_few_pairs() -> None:
    pairs = close_pairs(np.zeros(2000, dtype=np.int64), MAX_BITS)
    assert len(pairs) < 2 * 2000
    assert set(pairs[:, :2].ravel().tolist()) == set(range(2000))


def test_bits_are_counted_as_python_counts_them() -> None:
    made = hashes(60)
    assert popcount(made.view(np.uint64)).tolist() == [bits(value, 0) for value in made.tolist()]


def test_the_hash_is_that_of_scipys_cosine_transform() -> None:
    grey = torch.rand(5, 32, 32) * 255
    low = dct(dct(grey.numpy().astype(np.float64), axis=1), axis=2)[:, :8, :8].reshape(5, 64)
    low[:, 0] = 0
    ranks = np.sort(low[:, 1:], axis=1)[:, 31:32]  # the median of 63
    expected = low > ranks
    found = perceptual_hash(grey).numpy().view(np.uint64)
    assert [[bool(h >> np.uint64(i) & np.uint64(1)) for i in range(64)] for h in found] == (
        expected.tolist()
    )


def smooth(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(count, 3, 7, 7, generator=generator) * 255
    large = torch.nn.functional.interpolate(low, (48, 48), mode="bicubic")
    return large.clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (x.float() * 0.8 + 20).to(torch.uint8),  # paler
        lambda x: torch.nn.functional.interpolate(x[None], 24, mode="bilinear", antialias=True)[0],
    ],
    ids=["paler", "half the size"],
)
def test_a_changed_copy_looks_the_same_and_others_do_not(change: object) -> None:
    images = list(smooth(40))
    images.append(change(images[3]))  # type: ignore[operator]
    pairs = similar_pairs(joined([fingerprints(image[None]) for image in images], 3))
    assert [pair[:2] for pair in pairs] == [(3, 40)]


def test_equal_images_are_paired_with_the_first_of_them() -> None:
    prints = fingerprints(smooth(3)[[0, 1, 0, 2, 0]])
    assert [pair[:2] for pair in equal_pairs(prints.digests)] == [(0, 2), (0, 4)]


def test_of_a_group_of_duplicates_those_between_splits_are_listed() -> None:
    split = torch.tensor([0, 0, 2])
    within = Duplicate(0, 1, SAME_FILE, 0)
    between = [Duplicate(0, 2, LOOKS_SAME, 3), Duplicate(1, 2, LOOKS_SAME, 2)]
    assert listed([within, *between], split) == [between[1], between[0]]
