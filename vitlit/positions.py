"""Fixed position tables, computed in float64 and stored in float32.

grid (rows, cols) -> table (N, D)
"""

import torch
from torch import Tensor

from vitlit.errors import InputError


def _angles(positions: Tensor, pairs: int) -> Tensor:
    """positions ``(N,)`` -> angles ``(N, pairs)`` with wavelengths from 2*pi to 10000 * 2*pi."""
    rates = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    return positions.double()[:, None] * rates


def sincos1d(count: int, dim: int) -> Tensor:
    """The Transformer's table: PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos of the same.

    Vaswani et al., 2017, section 3.5. Returns ``(count, dim)``; ``dim`` must be even.
    """
    if dim % 2:
        raise InputError(f"embed_dim {dim} is odd; pos_embed sincos1d needs an even width")
    angles = _angles(torch.arange(count), dim // 2)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()


def sincos2d(rows: int, cols: int, dim: int) -> Tensor:
    """Sines and cosines of the column, then of the row, a quarter of the width each.

    The fixed table of MAE (He et al., 2022). Returns ``(rows*cols, dim)``, row by row;
    ``dim`` must be a multiple of 4.
    """
    if dim % 4:
        raise InputError(f"embed_dim {dim} is not a multiple of 4, as pos_embed sincos2d needs")
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    across = _angles(x.flatten(), dim // 4)
    down = _angles(y.flatten(), dim // 4)
    return torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1).float()
