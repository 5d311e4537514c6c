"""Fixed position tables: sines and cosines in one and two dimensions.

grid (rows, cols) -> table (N, D)

Angles are computed in float64, and tables are stored in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.errors import InputError


def angles_of(positions: Tensor, pairs: int, base: float = 10000.0) -> Tensor:
    """positions ``(N,)`` -> angles ``(N, pairs)``, wavelengths from 2*pi to base * 2*pi."""
    rates = base ** (-torch.arange(pairs, dtype=torch.float64, device=positions.device) / pairs)
    return positions.double()[:, None] * rates


def _is_meta() -> bool:
    """Whether tensors hold no values by default; sines of none would import torch's compiler."""
    return torch.get_default_device().type == "meta"


def sincos1d(count: int, dim: int) -> Tensor:
    """The Transformer's table: PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos of the same.

    Vaswani et al., 2017, section 3.5. Returns ``(count, dim)``; raises InputError if dim is odd.
    """
    if dim % 2:
        raise InputError(
            f"embed_dim {dim} is odd; pos_embed sincos1d needs an even width", argument="embed_dim"
        )
    if _is_meta():
        return torch.empty(count, dim)
    angles = angles_of(torch.arange(count), dim // 2)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()


def sincos2d(rows: int, cols: int, dim: int) -> Tensor:
    """Sines and cosines of the column, then of the row, a quarter of the width each.

    The fixed table of MAE (He et al., 2022). Returns ``(rows*cols, dim)``, row by row. Raises
    InputError if dim is not a multiple of 4.
    """
    if dim % 4:
        raise InputError(
            f"embed_dim {dim} is not a multiple of 4; pos_embed sincos2d needs one",
            argument="embed_dim",
        )
    if _is_meta():
        return torch.empty(rows * cols, dim)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    across = angles_of(x.flatten(), dim // 4)
    down = angles_of(y.flatten(), dim // 4)
    # The column first: MAE's code builds its grid with the width in front.
    return torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1).float()


def fixed_table(kind: str, grid: tuple[int, int], dim: int, prefix: int) -> Tensor | None:
    """The table ``(1, prefix+N, D)`` of kind sincos1d or sincos2d; None for any other kind.

    In sincos1d the prefix tokens take the first positions; in sincos2d they get zeros, because they
    have no place in the image.
    """
    rows, cols = grid
    match kind:
        case "sincos1d":
            return sincos1d(prefix + rows * cols, dim)[None]
        case "sincos2d":
            return F.pad(sincos2d(rows, cols, dim), (0, 0, prefix, 0))[None]
    return None
