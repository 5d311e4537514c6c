"""Position tables: sines and cosines in one and two dimensions, and rotary positions (RoPE).

grid (rows, cols) -> table (N, D); queries or keys (B, h, N, D/h) -> the same, rotated

Angles are computed in float64, and tables are stored in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.errors import InputError

# RoPE-ViT's base (Heo et al., 2024), for grids of some ten patches: with the 10000 of language
# models most pairs would hardly rotate within them.
ROPE_BASE = 100.0


def _angles(positions: Tensor, pairs: int, base: float = 10000.0) -> Tensor:
    """positions ``(N,)`` -> angles ``(N, pairs)``, wavelengths from 2*pi to base * 2*pi."""
    rates = base ** (-torch.arange(pairs, dtype=torch.float64, device=positions.device) / pairs)
    return positions.double()[:, None] * rates


def sincos1d(count: int, dim: int) -> Tensor:
    """The Transformer's table: PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos of the same.

    Vaswani et al., 2017, section 3.5. Returns ``(count, dim)``; raises InputError if dim is odd.
    """
    if dim % 2:
        raise InputError(
            f"embed_dim {dim} is odd; pos_embed sincos1d needs an even width", argument="embed_dim"
        )
    angles = _angles(torch.arange(count), dim // 2)
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
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    across = _angles(x.flatten(), dim // 4)
    down = _angles(y.flatten(), dim // 4)
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


def rope2d(rows: int, cols: int, width: int, *, prefix: int = 0) -> Tensor:
    """Cosines and sines by which :func:`rotate_pairs` rotates the queries and keys of a head.

    RoFormer's rotation (Su et al., 2021) along the two axes of an image, as in the axial variant of
    RoPE-ViT (Heo et al., 2024): the first half of the width rotates with the row of a patch, the
    second with its column. The first ``prefix`` tokens have no place and do not rotate.
    width: of one head, D/h. Returns ``(2, prefix + rows*cols, width)``; raises InputError if width
    is not a multiple of 4.
    """
    if width % 4:
        raise InputError(
            f"embed_dim / num_heads is {width}, and pos_embed rope needs a multiple of 4; "
            f"change either",
            argument=("embed_dim", "num_heads"),
        )
    # On the CPU even for a model on the meta device: the table is not saved, so no checkpoint would
    # fill in the numbers.
    device = torch.device("cpu") if torch.get_default_device().type == "meta" else None
    y, x = (torch.arange(count, device=device) for count in (rows, cols))
    down = _angles(y.repeat_interleave(cols), width // 4, ROPE_BASE)
    across = _angles(x.repeat(rows), width // 4, ROPE_BASE)
    angles = torch.cat([down, across], dim=1).repeat_interleave(2, dim=1)  # one angle per pair
    angles = F.pad(angles, (0, 0, prefix, 0))  # angle 0 is no rotation
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate_pairs(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (x0, x1), (x2, x3), ... of each token by the angles of its place.

    Pairs are neighbours, as in RoFormer, not the two halves of the width as in DINOv3.
    x: ``(..., N, d)``; table: ``(2, N, d)`` from :func:`rope2d`. The dtype of x is kept.
    """
    quarter = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)  # rotated by 90 degrees
    # The float32 table makes this float32 for bfloat16 too; only the result is rounded.
    return (x * table[0] + quarter * table[1]).to(x.dtype)


def rope_similarity(rows: int, cols: int, width: int) -> Tensor:
    """Similarity of a query at one patch and an equal key at another, from position alone.

    It is the cosine of the angle between the two rotations, averaged over the pairs of a head of
    ``width`` numbers. Returns ``(N, N)``, 1 on the diagonal.
    """
    cosines, sines = rope2d(rows, cols, width).double()
    return ((cosines @ cosines.T + sines @ sines.T) / width).float()
