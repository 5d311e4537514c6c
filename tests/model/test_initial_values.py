"""Attention and stems that start as convolutions, against slow loops, NumPy and SciPy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dct

from vitlit.errors import InputError
from vitlit.model.initial_values import (
    CELLS,
    SMALLEST_VARIANCE,
    cosines,
    impulse_logits,
    nearest_factors,
    whitening_filters,
)
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


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_cosines_are_scipys_transform(size: int) -> None:
    expected = dct(np.eye(size), norm="ortho", axis=0)
    np.testing.assert_allclose(cosines(size).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_whiten_images_whose_neighbours_are_alike(channels: int) -> None:
    filters = whitening_filters(channels).double().numpy()
    assert filters.shape == (18 * channels, channels, 3, 3)
    np.testing.assert_array_equal(filters[1::2], -filters[::2])
    places = [(c, y, x) for c in range(channels) for y in range(3) for x in range(3)]
    correlation = np.array(
        [
            [0.9 ** (abs(y - v) + abs(x - u)) * (1 if c == d else 0.9) for d, v, u in places]
            for c, y, x in places
        ]
    )
    rows = filters[::2].reshape(len(places), -1)
    # of the cosines, which are the main directions all but exactly: each one's own variance
    variance = 1 / (rows**2).sum(1) - SMALLEST_VARIANCE
    found = rows @ correlation @ rows.T
    np.testing.assert_allclose(np.diag(found), variance / (variance + SMALLEST_VARIANCE), rtol=1e-4)
    assert (np.diff(variance) < 1e-6).all()  # the largest first
    others = found - np.diag(np.diag(found))
    assert abs(others).max() < 0.16, abs(others).max()


@pytest.mark.parametrize(
    ("in_chans", "known", "drawn"), [(3, 12, 0), (1, 12, 0), (3, 54, 10), (1, 18, 14)]
)
def test_a_deep_stem_starts_by_whitening(in_chans: int, known: int, drawn: int) -> None:
    first = known + drawn
    torch.manual_seed(0)
    vit = ViT(
        img_size=8, patch_size=4, in_chans=in_chans, num_classes=2, embed_dim=2 * first,
        depth=1, num_heads=1, patch_embed="conv_stem", stem_convs=2,
    )  # fmt: skip
    filters = vit.patch_embed.filters()
    assert len(filters) == first
    torch.testing.assert_close(
        filters[:known].detach(), whitening_filters(in_chans)[:known], rtol=0, atol=0
    )
    assert not (filters[known:] == 0).any()
    vit = ViT(**{**vit.config, "stem_convs": 1})  # CCT's stem stays as CCT draws it
    assert vit.patch_embed.filters().shape[0] == 64
    assert not torch.equal(vit.patch_embed.filters()[:12], whitening_filters(in_chans)[:12])
