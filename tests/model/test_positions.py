"""Fixed tables and rotary positions against published formulas and timm's."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import (
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    apply_rot_embed_cat,
    build_sincos2d_pos_embed,
)
from torch import Tensor

from vitlit.errors import InputError
from vitlit.model.positions import rope2d, rope_similarity, rotate_pairs, sincos1d, sincos2d


@pytest.mark.parametrize(("count", "dim"), [(50, 12), (5000, 2), (1, 4)])
def test_sincos1d_equals_the_formula_of_the_transformer(count: int, dim: int) -> None:
    slow = torch.zeros(count, dim, dtype=torch.float64)
    for p in range(count):
        for i in range(dim // 2):
            slow[p, 2 * i] = math.sin(p / 10000 ** (2 * i / dim))
            slow[p, 2 * i + 1] = math.cos(p / 10000 ** (2 * i / dim))
    torch.testing.assert_close(sincos1d(count, dim).double(), slow, rtol=0, atol=1e-7)


def test_sincos2d_equals_a_slow_loop_over_rows_and_columns() -> None:
    rows, cols, dim = 3, 5, 16
    quarter = dim // 4
    slow = torch.zeros(rows * cols, dim, dtype=torch.float64)
    for row in range(rows):
        for col in range(cols):
            for i in range(quarter):
                rate = 10000 ** (-i / quarter)
                parts = math.sin(col * rate), math.cos(col * rate)
                parts += math.sin(row * rate), math.cos(row * rate)
                for part, value in enumerate(parts):
                    slow[row * cols + col, part * quarter + i] = value
    torch.testing.assert_close(sincos2d(rows, cols, dim).double(), slow, rtol=0, atol=1e-7)


def test_sincos2d_holds_the_numbers_of_timms_table() -> None:
    """The widths are ordered differently: timm's quarters are sin of the row, sin of the column,
    cos of the row, cos of the column; ours are sin and cos of the column, then of the row."""
    theirs = build_sincos2d_pos_embed([4, 7], dim=24)
    sin_row, sin_col, cos_row, cos_col = theirs.chunk(4, dim=1)
    reordered = torch.cat([sin_col, cos_col, sin_row, cos_row], dim=1)
    torch.testing.assert_close(sincos2d(4, 7, 24), reordered, rtol=0, atol=1e-6)


def test_every_place_in_the_image_has_its_own_row() -> None:
    table = sincos2d(14, 14, 32)
    assert torch.cdist(table, table).add(torch.eye(196)).min() > 0.1


@pytest.mark.parametrize("table", [sincos1d(9, 8), sincos2d(3, 3, 8)])
def test_tables_are_stored_in_float32(table: Tensor) -> None:
    assert table.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sincos1d(4, 7), "embed_dim 7 is odd.*sincos1d"),
        (lambda: sincos2d(2, 2, 7), "embed_dim 7 is not a multiple of 4.*sincos2d"),
        (lambda: sincos2d(2, 2, 6), "embed_dim 6 is not a multiple of 4.*sincos2d"),
    ],
)
def test_a_width_that_does_not_divide_is_refused(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def rotated(x: Tensor, grid: tuple[int, int], *, prefix: int = 0) -> Tensor:
    return rotate_pairs(x, rope2d(grid, x.shape[-1], prefix=prefix).to(x.dtype))


def test_rope_turns_as_timms_does() -> None:
    x = torch.randn(2, 3, 12, 16)
    theirs = RotaryEmbeddingCat(16, temperature=100, in_pixels=False, feat_shape=[3, 4])
    expected = apply_rot_embed_cat(x, theirs.get_embed())
    torch.testing.assert_close(rotated(x, (3, 4)), expected, rtol=1e-5, atol=1e-5)


def test_rope_multiplies_pairs_as_complex_numbers() -> None:
    x = torch.randn(6, 8)
    pairs = torch.view_as_complex(x.view(6, 4, 2))
    for place, (row, col) in enumerate([(r, c) for r in range(2) for c in range(3)]):
        angles = torch.tensor([row, row / 10, col, col / 10])  # rates 100^0 and 100^(-1/2)
        turned = pairs[place] * torch.polar(torch.ones(4), angles)
        found = torch.view_as_complex(rotated(x, (2, 3))[place].view(4, 2))
        torch.testing.assert_close(found, turned)


def test_rope_keeps_the_length_of_each_pair() -> None:
    x = torch.randn(2, 12, 8)
    lengths = x.view(2, 12, 4, 2).norm(dim=3)
    torch.testing.assert_close(rotated(x, (3, 4)).view(2, 12, 4, 2).norm(dim=3), lengths)


def test_after_rope_only_the_offset_between_patches_matters() -> None:
    """The same query and key everywhere: the logit of (y, x) and (y+1, x+2) is that of any such."""
    query, key = torch.randn(2, 8, dtype=torch.float64)
    grid = (4, 5)
    q, k = (rotated(one.expand(20, 8), grid) for one in (query, key))
    logits = (q @ k.T).view(4, 5, 4, 5)
    found = torch.stack([logits[y, x, y + 1, x + 2] for y in range(3) for x in range(3)])
    torch.testing.assert_close(found, found[:1].expand(9), rtol=1e-6, atol=1e-6)


def test_rope_leaves_prefix_tokens_as_they_are() -> None:
    x = torch.randn(2, 3 + 6, 8)
    found = rotated(x, (2, 3), prefix=3)
    assert torch.equal(found[:, :3], x[:, :3])
    torch.testing.assert_close(found[:, 3:], rotated(x[:, 3:], (2, 3)))


def test_rope_keeps_the_type_of_what_it_turns() -> None:
    x = torch.randn(6, 8).bfloat16()
    assert rotate_pairs(x, rope2d((2, 3), 8)).dtype == torch.bfloat16


def test_the_gradient_of_rope_is_that_of_finite_differences() -> None:
    x = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: rotated(value, (2, 3)), (x,))


def test_the_similarity_of_places_under_rope_is_that_of_equal_rotated_vectors() -> None:
    ones = torch.ones(6, 8, dtype=torch.float64)
    turned = rotated(ones, (2, 3))
    expected = (turned @ turned.T / 8).float()
    torch.testing.assert_close(rope_similarity(rope2d((2, 3), 8)), expected)


def test_a_model_without_numbers_has_its_table_all_the_same() -> None:
    """No checkpoint holds the table, so on the meta device nothing would fill it in."""
    with torch.device("meta"):
        table = rope2d((2, 3), 8)
    assert torch.equal(table, rope2d((2, 3), 8))


def test_heads_too_narrow_for_rope_are_refused() -> None:
    with pytest.raises(InputError, match="embed_dim / num_heads is 6"):
        rope2d((2, 3), 6)


GRIDS = [(3, 4), (5, 2), (1, 1)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(
    "changes",
    [{"base": 10000.0}, {"reference": (16, 16)}, {"offset": 1.0, "reference": (14, 7)}],
    ids=str,
)
def test_rescaled_and_shifted_places_turn_as_timms_do(
    changes: dict[str, Any], grid: tuple[int, int]
) -> None:
    theirs = RotaryEmbeddingCat(
        16,
        temperature=changes.get("base", 100.0),
        in_pixels=False,
        feat_shape=list(grid),
        ref_feat_shape=changes.get("reference"),
        grid_offset=changes.get("offset", 0.0),
    )
    x = torch.randn(2, 3, grid[0] * grid[1], 16)
    expected = apply_rot_embed_cat(x, theirs.get_embed())
    found = rotate_pairs(x, rope2d(grid, 16, **changes))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_centred_places_compare_as_dinov3s(grid: tuple[int, int]) -> None:
    """Its code pairs the halves of a head; the products are equal after a permutation."""
    theirs = RotaryEmbeddingDinoV3(16, 100.0, feat_shape=list(grid), rotate_half=True)
    q, k = torch.randn(2, 3, grid[0] * grid[1], 16)
    table = theirs.get_embed()
    q_turned, k_turned = (apply_rot_embed_cat(one, table, half=True) for one in (q, k))
    interleaved = torch.arange(16).view(2, 8).T.flatten()  # (j, j + d/2) side by side
    ours = rope2d(grid, 16, kind="centred")
    q, k = (rotate_pairs(one[..., interleaved], ours) for one in (q, k))
    torch.testing.assert_close(q @ k.mT, q_turned @ k_turned.mT, rtol=1e-4, atol=1e-4)
