"""A bank of vectors that stays small, and how far it is from what it stands for."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor

from vitlit.features.coreset import (
    PROJECTED,
    Coreset,
    farthest_first,
    nearest_distance,
    projected,
)


def unit(count: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator), dim=1)


def reach(rows: Tensor, bank: Tensor) -> float:
    """The largest Euclidean distance of a row to the nearest of the bank."""
    return float(cdist(rows, bank).min(axis=1).max())


def test_distances_are_those_of_scipy() -> None:
    rows, bank = unit(1500, 5), unit(70, 5, seed=1)
    expected = cdist(rows, bank, "cosine").min(axis=1)
    torch.testing.assert_close(
        nearest_distance(rows, bank).double(), torch.tensor(expected), rtol=0, atol=1e-6
    )


def test_a_vector_is_at_distance_0_from_itself() -> None:
    rows = unit(200, 7)
    found = nearest_distance(rows, rows)
    assert (found >= 0).all()
    torch.testing.assert_close(found, torch.zeros(200), rtol=0, atol=1e-6)


def test_the_farthest_first_choice_is_that_of_a_slow_loop() -> None:
    rows = unit(60, 4)
    chosen = [0]
    while len(chosen) < 9:
        near = [min(float((row - rows[j]).norm()) for j in chosen) for row in rows]
        chosen.append(max(range(60), key=near.__getitem__))
    assert farthest_first(rows, 9).tolist() == chosen


@pytest.mark.parametrize("seed", range(5))
def test_its_reach_is_at_most_twice_the_best_one(seed: int) -> None:
    rows = unit(14, 3, seed)
    best = min(reach(rows, rows[list(chosen)]) for chosen in combinations(range(14), 4))
    found = reach(rows, rows[farthest_first(rows, 4)])
    assert best <= found <= 2 * best


def test_few_vectors_are_all_kept() -> None:
    rows, bank = unit(40, 6), Coreset(40)
    for part in torch.split(rows, 15):
        bank.add(part)
    assert torch.equal(bank.bank(), rows)
    assert (bank.seen, bank.radius) == (40, 0)


@pytest.mark.parametrize("size", [1, 7, 400])
@pytest.mark.parametrize("width", [3, 100])
def test_every_vector_is_within_the_radius_that_is_stated(size: int, width: int) -> None:
    """Chunk by chunk, and also where distances are measured on random axes."""
    rows, bank = unit(400, width), Coreset(30)
    most = 0
    for part in torch.split(rows, size):
        bank.add(part)
        most = max(most, len(bank.kept))
    assert most <= 60
    assert len(bank.bank()) == 30
    assert 0 < reach(rows, bank.bank()) <= bank.radius + 1e-3
    # those of the bank are vectors that were added
    assert reach(bank.bank(), rows) < 1e-3


def test_a_rare_kind_is_kept_among_many_alike() -> None:
    common = F.normalize(torch.eye(1, 8) + 0.05 * unit(1000, 8), dim=1)
    rare = torch.eye(8)[3:4]
    bank = Coreset(10)
    bank.add(torch.cat([common[:700], rare, common[700:]]))
    assert float(nearest_distance(rare, bank.bank())) < 1e-6


def test_what_is_near_the_bank_is_left_out_without_thinning_it_again() -> None:
    rows, bank = unit(100, 3), Coreset(20)
    bank.add(rows[:40])
    before = bank.radius
    bank.add(F.normalize(bank.bank() + 0.1 * before * unit(20, 3), dim=1))
    assert bank.radius == before
    assert len(bank.kept) == 20


def test_random_axes_keep_distances_roughly() -> None:
    rows = unit(50, 768)
    assert projected(rows).shape == (50, PROJECTED)
    assert torch.equal(projected(rows), projected(rows))
    ratio = cdist(projected(rows), projected(rows)) / (cdist(rows, rows) + torch.eye(50).numpy())
    ratio = ratio[~torch.eye(50, dtype=torch.bool).numpy()]
    assert ratio.min() > 0.6
    assert ratio.max() < 1.4
    assert abs(ratio.mean() - 1) < 0.05
