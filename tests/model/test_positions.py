"""Fixed position tables against published formulas and timm's."""

import math
from collections.abc import Callable

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor

from vitlit.errors import InputError
from vitlit.model.positions import sincos1d, sincos2d


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
