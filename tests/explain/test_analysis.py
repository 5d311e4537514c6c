"""What the weights and the maps of a model tell, against slow loops and numpy."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from small_vit import GRID, random_maps, small

from vitlit.explain.analysis import mean_attention_distance, position_similarity, principal_filters


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_mean_attention_distance_equals_a_slow_loop(prefix: int) -> None:
    maps = random_maps(2, 3, 2, prefix + 6, prefix + 6)
    places = list(product(range(2), range(3)))
    found = mean_attention_distance(maps, grid=GRID, patch_size=4, prefix=prefix)
    for block, head in product(range(2), range(2)):
        means = []
        for b, i in product(range(3), range(6)):
            row = maps[block, b, head, prefix + i, prefix:]
            far = [4 * math.dist(places[i], place) for place in places]
            means.append(sum(w * d for w, d in zip(row, far, strict=True)) / sum(row))
        assert found[block, head].item() == pytest.approx(float(sum(means)) / len(means))


def test_attention_to_oneself_has_distance_zero() -> None:
    maps = torch.eye(7).expand(2, 1, 3, 7, 7)
    found = mean_attention_distance(maps, grid=GRID, patch_size=16, prefix=1)
    assert torch.equal(found, torch.zeros(2, 3))


@pytest.mark.parametrize("prefix", [0, 1])
def test_similarity_of_positions_is_the_cosine(prefix: int) -> None:
    table = torch.randn(1, prefix + 6, 16, requires_grad=True)
    found = position_similarity(table, grid=GRID, prefix=prefix)
    for i, j in product(range(6), repeat=2):
        a, b = table[0, prefix + i], table[0, prefix + j]
        expected = torch.cosine_similarity(a, b, dim=0).item()
        assert found[i, j // 3, j % 3].item() == pytest.approx(expected, abs=1e-6)


def test_a_position_is_most_like_itself() -> None:
    table = small(pos_embed="sincos2d").pos_embed
    found = position_similarity(table, grid=GRID, prefix=1).flatten(1)
    torch.testing.assert_close(found.diag(), torch.ones(6, dtype=torch.float64))
    assert torch.equal(found.argmax(dim=1), torch.arange(6))


def test_filters_equal_numpys_singular_vectors_up_to_sign() -> None:
    weight = torch.randn(40, 3, 4, 4)
    rows = weight.flatten(1).double().numpy()
    expected = np.linalg.svd(rows - rows.mean(axis=0))[2][:28]
    found = principal_filters(weight).flatten(1).double().numpy()
    cosines = np.abs((found * expected).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-5)


def test_filters_point_where_their_largest_value_is_positive() -> None:
    found = principal_filters(torch.randn(40, 3, 4, 4)).flatten(1)
    assert torch.equal(found.abs().amax(dim=1), found.amax(dim=1))


@pytest.mark.parametrize(("shape", "expected"), [((48, 1, 2, 2), 4), ((5, 3, 4, 4), 4)])
def test_there_are_no_more_filters_than_dimensions(shape: tuple[int, ...], expected: int) -> None:
    assert principal_filters(torch.randn(shape)).shape == (expected, *shape[1:])
