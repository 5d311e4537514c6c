"""Rotary positions against published formulas and timm's."""

from typing import Any

import pytest
import torch
from timm.layers import RotaryEmbeddingCat, RotaryEmbeddingDinoV3, apply_rot_embed_cat
from torch import Tensor

from vitlit.errors import InputError
from vitlit.model.rope import rope2d, rope_similarity, rotate_pairs


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
