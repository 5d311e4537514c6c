"""Positions without parameters: fixed tables of sines and cosines, and rotary positions (RoPE).

grid (rows, cols) -> table (N, D)
grid (rows, cols) -> table (2, N, d); queries or keys (B, h, N, d) -> the same, rotated

d is the width of a head, D/h. Angles are computed in float64, and tables are stored in float32.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.errors import InputError
from vitlit.patches import Grid

RopeName = Literal["none", "index", "centred"]
# RoPE-ViT's base (Heo et al., 2024), for grids of some ten patches: with the 10000 of language
# models most pairs would hardly rotate within them.
ROPE_BASE = 100.0


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


def rope2d(
    grid: Grid,
    width: int,
    *,
    kind: RopeName = "index",
    base: float = ROPE_BASE,
    reference: Grid | None = None,
    offset: float = 0.0,
    prefix: int = 0,
) -> Tensor:
    """Cosines and sines by which :func:`rotate_pairs` rotates the queries and keys of a head.

    RoFormer's rotation (Su et al., 2021) along the two axes of an image, as in the axial variant of
    RoPE-ViT (Heo et al., 2024): the first half of the width rotates with the row of a patch, the
    second with its column. The first ``prefix`` tokens have no place and do not rotate.

    kind: ``index`` counts rows and columns from ``offset``, rescaled to the grid ``reference`` if
    there is one (EVA-02, Fang et al., 2023); ``centred`` takes the centres of the patches, from -1
    to 1 along each axis, times 2 pi (DINOv3, Simeoni et al., 2025). width: of one head, D/h.
    base: the slowest pair turns almost ``base`` times slower than the fastest. Returns
    ``(2, prefix + rows*cols, width)``; raises InputError if width is not a multiple of 4.
    """
    if width % 4:
        raise InputError(
            f"embed_dim / num_heads is {width}, and rotary positions (rope) need a multiple of 4; "
            f"change one of them",
            argument=("embed_dim", "num_heads"),
        )
    rows, cols = (_places(axis, grid, kind, reference, offset) for axis in (0, 1))
    down = angles_of(rows.repeat_interleave(len(cols)), width // 4, base)
    across = angles_of(cols.repeat(len(rows)), width // 4, base)
    angles = torch.cat([down, across], dim=1).repeat_interleave(2, dim=1)  # one angle per pair
    angles = F.pad(angles, (0, 0, prefix, 0))  # angle 0 is no rotation
    return torch.stack([angles.cos(), angles.sin()]).float()


def _places(axis: int, grid: Grid, kind: RopeName, reference: Grid | None, offset: float) -> Tensor:
    """Where the rows (axis 0) or columns (axis 1) of the grid stand: ``(count,)``, float64."""
    # On the CPU even for a model on the meta device: the table is not saved, so no checkpoint would
    # fill in the numbers.
    device = torch.device("cpu") if torch.get_default_device().type == "meta" else None
    count = grid[axis]
    places = torch.arange(count, dtype=torch.float64, device=device)
    if kind == "centred":
        return 2 * math.pi * (2 * (places + 0.5 + offset) / count - 1)
    scale = 1.0 if reference is None else reference[axis] / count
    return (places + offset) * scale


def rotate_pairs(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (x0, x1), (x2, x3), ... of each token by the angles of its place.

    Pairs are neighbours, as in RoFormer, not the two halves of the width as in DINOv3's code.
    x: ``(..., N, d)``; table: ``(2, N, d)`` from :func:`rope2d`. The dtype of x is kept.
    """
    quarter = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)  # rotated by 90 degrees
    # The float32 table makes this float32 for bfloat16 too; only the result is rounded.
    return (x * table[0] + quarter * table[1]).to(x.dtype)


def rope_similarity(table: Tensor) -> Tensor:
    """Similarity of a query at one patch and an equal key at another, from position alone.

    It is the cosine of the angle between the two rotations, averaged over the pairs of a head.
    table: ``(2, N, d)`` of the patches, from :func:`rope2d`. Returns ``(N, N)``, 1 on the diagonal.
    """
    cosines, sines = table.double()
    return ((cosines @ cosines.T + sines @ sines.T) / table.shape[-1]).float()
