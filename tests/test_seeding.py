"""Addressed draws against SplitMix64 in plain integers, and the statistics of the draws."""

import math

import pytest
import torch
import torch.nn.functional as F

from vitlit.seeding import address, permutation, seed_dropout, uniform

KEYS = [address(), address(0), address(7, 3), address(2**63, 1), 2**64 - 1]


def splitmix64(seed: int, count: int) -> list[int]:
    """The first outputs of the generator of Steele, Lea and Flood (2014), as published."""
    outputs = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = seed
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


def test_address_gives_the_published_first_output_of_splitmix64() -> None:
    assert address(1234567) == 6457827717110365317  # Vigna's splitmix64.c, seed 1234567


@pytest.mark.parametrize("parts", [(), (0,), (1, 2, 3), (42, 0, 0, 7), (2**64 - 1, 5), (-1, -2)])
def test_address_chains_splitmix64_over_its_parts(parts: tuple[int, ...]) -> None:
    key = 0
    for part in parts:
        (key,) = splitmix64((key + part) % 2**64, 1)
    assert address(*parts) == key


def test_addresses_of_a_grid_of_parts_are_all_different() -> None:
    keys = {address(a, b, c) for a in range(-10, 10) for b in range(20) for c in range(20)}
    assert len(keys) == 20 * 20 * 20


@pytest.mark.parametrize("key", KEYS)
def test_uniform_equals_a_slow_loop_over_python_integers(key: int) -> None:
    index = [0, 1, 2, 59_999, 2**40, 2**63 - 1]
    slow = []
    for i in index:
        (start,) = splitmix64((key + i) % 2**64, 1)
        slow.append([(bits >> 40) / 2**24 for bits in splitmix64(start, 5)])
    assert uniform(key, torch.tensor(index), 5).tolist() == slow


def test_a_sample_draws_the_same_in_any_batch() -> None:
    key, order = address(3, 1), torch.randperm(100)
    everyone = uniform(key, torch.arange(100), 6)
    assert torch.equal(uniform(key, order, 6), everyone[order])
    assert torch.equal(uniform(key, torch.tensor([41]), 6), everyone[41:42])


def test_a_sample_keeps_its_draws_when_more_columns_are_asked() -> None:
    index = torch.arange(20)
    assert torch.equal(uniform(5, index, 3), uniform(5, index, 8)[:, :3])


@pytest.mark.parametrize("key", KEYS)
def test_draws_have_the_mean_and_variance_of_the_uniform_distribution(key: int) -> None:
    draws = uniform(key, torch.arange(20_000), 5).double().flatten()
    n = draws.numel()
    assert abs(draws.mean().item() - 1 / 2) < 4 * math.sqrt(1 / 12 / n)
    assert abs(draws.var().item() - 1 / 12) < 4 * math.sqrt((1 / 80 - 1 / 144) / n)


@pytest.mark.parametrize("key", KEYS)
def test_draws_fill_every_bin_alike(key: int) -> None:
    draws = uniform(key, torch.arange(20_000), 5)
    counts = draws.mul(64).long().flatten().bincount(minlength=64).double()
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi_square < 63 + 4 * math.sqrt(2 * 63)  # mean and deviation for 63 degrees of freedom


@pytest.mark.parametrize("between", ["columns", "samples", "epochs"])
def test_draws_are_uncorrelated(between: str) -> None:
    n = 10_000
    match between:
        case "columns":
            draws = uniform(address(1), torch.arange(n), 10).T
        case "samples":
            draws = uniform(address(1), torch.arange(10), n)
        case _:
            index = torch.arange(n)
            draws = torch.cat([uniform(address(1, epoch), index, 1).T for epoch in range(10)])
    correlation = torch.corrcoef(draws.double()) - torch.eye(10)
    assert correlation.abs().max() < 4 / math.sqrt(n)


def test_a_permutation_holds_every_item_once() -> None:
    assert permutation(address(1), 1000).sort().values.tolist() == list(range(1000))


def test_a_permutation_depends_on_its_key() -> None:
    orders = {tuple(permutation(address(seed), 50).tolist()) for seed in range(100)}
    assert len(orders) == 100


def test_a_permutation_neither_reads_nor_moves_the_global_generator() -> None:
    torch.manual_seed(1)
    first, state = permutation(9, 50), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(permutation(9, 50), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("key", KEYS)
def test_dropout_repeats_after_reseeding_with_the_same_key(key: int) -> None:
    seed_dropout(key, torch.device("cpu"))
    first = F.dropout(torch.ones(1000))
    seed_dropout(key, torch.device("cpu"))
    assert torch.equal(F.dropout(torch.ones(1000)), first)


def test_dropout_differs_after_reseeding_with_another_key() -> None:
    seed_dropout(address(0), torch.device("cpu"))
    first = F.dropout(torch.ones(1000))
    seed_dropout(address(1), torch.device("cpu"))
    assert not torch.equal(F.dropout(torch.ones(1000)), first)
