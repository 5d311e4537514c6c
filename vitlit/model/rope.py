"""Rotary positions (RoPE): queries and keys rotate with the row and the column of their patch.

grid (rows, cols) -> table (2, N, d); queries or keys (B, h, N, d) -> the same, rotated

d is the width of a head, D/h. Angles are computed in float64, and tables are stored in float32.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.errors import InputError
from vitlit.model.positions import angles_of
from vitlit.patches import Grid

RopeName = Literal["none", "index", "centred"]
# RoPE-ViT's base (Heo et al., 2024), for grids of some ten patches: with the 10000 of language
# models most pairs would hardly rotate within them.
ROPE_BASE = 100.0


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
            f"change either",
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
