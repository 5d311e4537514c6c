"""Attention that starts as a convolution, against slow loops and least squares in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch

from vitlit.errors import InputError
from vitlit.model.initial_values import CELLS, impulse_logits, nearest_factors
from vitlit.model.vit import ViT

GRID = (3, 4)
SMALL: dict[str, Any] = {
    "img_size": [6, 8],
    "patch_size": 2,
    "in_chans": 1,
    "num_classes": 3,
    "embed_dim": 36,
    "depth": 2,
    "num_heads": 3,
    "attention_init": "structured",
}


@pytest.mark.parametrize("cell", CELLS)
def test_wanted_logits_are_high_at_the_neighbour_alone(cell: tuple[int, int]) -> None:
    rows, cols = GRID
    found = impulse_logits(GRID, cell)
    for y in range(rows):
        for x in range(cols):
            row = found[y * cols + x]
            high = [(i // cols, i % cols) for i in range(rows * cols) if row[i] > 100]
            wanted = (y + cell[0], x + cell[1])
            is_inside = 0 <= wanted[0] < rows and 0 <= wanted[1] < cols
            assert high == ([wanted] if is_inside else [])


@pytest.mark.parametrize("width", [4, 12, 20])  # fewer than the patches, as many, more
def test_queries_and_keys_are_the_least_squares_solution(width: int) -> None:
    rng = np.random.default_rng(0)
    table, logits = rng.normal(size=(12, 24)), rng.normal(size=(12, 12))
    query, key = nearest_factors(torch.from_numpy(table), torch.from_numpy(logits), width)
    # the main directions by eigenvectors, then two ordinary least squares, one for each side
    values, vectors = np.linalg.eigh(table.T @ table)
    kept = vectors[:, np.argsort(values)[::-1][: min(width, 12)]]
    inner = np.linalg.lstsq(table @ kept, logits, rcond=None)[0]
    inner = np.linalg.lstsq(table @ kept, inner.T, rcond=None)[0].T
    wanted = kept @ inner @ kept.T
    found = (query.T @ key).numpy()
    assert query.shape == key.shape == (width, 24)
    # of any size: the two factors have the published norm
    np.testing.assert_allclose(
        found / np.linalg.norm(found), wanted / np.linalg.norm(wanted), atol=1e-9
    )
    np.testing.assert_allclose([query.norm(), key.norm()], 7.0)


def test_heads_of_a_new_model_look_at_their_neighbours() -> None:
    torch.manual_seed(0)
    vit = ViT(**SMALL)
    assert vit.pos_embed is not None
    rows, cols = GRID
    for block in vit.blocks:
        with torch.no_grad():
            maps = block.attn.weights(block.norm1(vit.pos_embed))[0, :, 1:, 1:]
        for head in range(3):
            for y in range(1, rows):
                for x in range(1, cols):
                    dy, dx = CELLS[head]
                    if y + dy < rows:
                        assert maps[head, y * cols + x].argmax() == (y + dy) * cols + x + dx


def test_values_and_projection_start_near_a_negative_share_of_the_token() -> None:
    torch.manual_seed(0)
    attention = ViT(**{**SMALL, "embed_dim": 192}).blocks[0].attn
    both = (attention.proj.weight @ attention.qkv.weight[2 * 192 :]).detach()
    noise = both + 0.4 * torch.eye(192)
    assert abs(float(noise.mean())) < 1e-3
    assert float(noise.std()) == pytest.approx(0.4 / 192**0.5, rel=0.02)


def test_learned_positions_start_larger() -> None:
    torch.manual_seed(0)
    found = ViT(**{**SMALL, "embed_dim": 192}).pos_embed
    assert found is not None
    assert float(found.detach().std()) == pytest.approx(18 * 0.02, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attention": "lsa"}, "attention_init structured needs attention softmax, not lsa"),
        ({"pos_embed": "sincos2d"}, "needs pos_embed learn, not sincos2d"),
        ({"rope": "index"}, "needs rope none, not index"),
        ({"qk_norm": True}, "needs qk_norm false, not true"),
        ({"attention_init": "mimetic"}, "unknown attention_init 'mimetic'; known: xavier"),
    ],
)
def test_attention_that_positions_do_not_decide_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        ViT(**SMALL | changes)
