"""Attention that knows what is near: LSA, GPSA, relative; and the kind of each block.

tokens (B, N, D) -> tokens (B, N, D); weights (B, h, N, N)

lsa (Lee et al., 2021), gpsa (d'Ascoli et al., 2021), relative (BEiT, Bao et al., 2022).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.attention import Attention

AttentionName = Literal["softmax", "lsa", "gpsa", "relative"]


class ExplicitAttention(Attention):
    """Attention that no fused kernel computes: dropout(:meth:`compare`) times v."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        weights = self.compare(q, k)  # float32 under autocast, because softmax is
        return F.dropout(weights, dropout, training=dropout > 0).to(v.dtype) @ v


class LocalitySelfAttention(ExplicitAttention):
    """LSA (Lee et al., 2021): no token attends to itself, and each head learns its temperature.

    ``sharpness`` ``(h,)`` is 1 / temperature, the factor of q k^T. It starts at 1 / sqrt(D/h), as
    in the paper's code. (A single token has no other token, so it attends to itself.)
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sharpness = nn.Parameter(torch.full((self.num_heads,), self.scale))

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        # The cast keeps q in its own type: float32 parameters would promote a bfloat16 q.
        logits = q * self.sharpness.view(-1, 1, 1).to(q.dtype) @ k.transpose(-2, -1)
        itself = torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
        # Not -inf: the softmax of a single token would be NaN.
        lowest = torch.finfo(logits.dtype).min
        return logits.masked_fill(itself, lowest).softmax(dim=-1)


class GatedPositionalAttention(ExplicitAttention):
    """GPSA (ConViT, d'Ascoli et al., 2021): each head weighs content against position.

    (1 - g) softmax(q k^T / sqrt(d)) + g softmax(position). Each head has g = sigmoid(gate), and
    position = locality . (x, y, x^2 + y^2) for the offset (x, y) from one patch to another.

    ``gate`` ``(h,)`` starts at 1; ``locality`` ``(h, 3)`` starts as a Gaussian around one offset
    for each head, see :meth:`start_local`. In the paper the class token joins after the gated
    blocks. Here the prefix tokens are there from the first block on; content alone decides what
    they attend to and how much they are attended to.
    """

    def __init__(
        self, *, grid: tuple[int, int], prefix: int, locality_strength: float, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.grid, self.prefix, self.locality_strength = grid, prefix, locality_strength
        # As in ConViT's code: sigmoid(1) gives position 73 % of the attention at first.
        self.gate = nn.Parameter(torch.ones(self.num_heads))
        self.locality = nn.Parameter(torch.zeros(self.num_heads, 3))

    @torch.no_grad()
    def start_local(self) -> None:
        """Start as a convolution: head i looks at cell i of a K x K kernel, values are copied.

        Cells are counted column by column, as in ConViT's code. K is the square root of the number
        of heads, rounded down; heads beyond K x K look at the centre.
        """
        side = math.isqrt(self.num_heads)
        cells = torch.arange(side) - (side - 1) / 2
        x, y = torch.meshgrid(cells, cells, indexing="ij")
        # -|offset - cell|^2 = 2 x cell_x + 2 y cell_y - (x^2 + y^2) - |cell|^2; the softmax drops
        # the last term, which is the same for all keys.
        start = torch.zeros(self.num_heads, 3)
        start[: side * side, 0], start[: side * side, 1] = 2 * x.flatten(), 2 * y.flatten()
        start[:, 2] = -1
        self.locality.copy_(self.locality_strength * start)
        self.qkv.weight.chunk(3)[2].copy_(torch.eye(self.qkv.in_features))

    def positional(self) -> Tensor:
        """Attention among the patches by position alone: ``(h, N, N)``, rows sum to 1.

        The logits are a sum over the two axes, so their softmax is the product of one softmax
        along each: (rows^2 + cols^2) exponentials for each head instead of N^2.
        """
        across, down = (
            self._along(count, axis) for axis, count in enumerate(reversed(self.grid))
        )  # (h, cols, cols) and (h, rows, rows)
        both = torch.einsum("hij,hkl->hikjl", down, across)
        return both.flatten(3).flatten(1, 2)

    def _along(self, count: int, axis: int) -> Tensor:
        """Softmax over offsets along one axis (0 is x, 1 is y): ``(h, count, count)``."""
        place = torch.arange(count, device=self.locality.device, dtype=self.locality.dtype)
        offset = place - place[:, None]  # row: the query's place; column: the key's
        linear, square = self.locality[:, axis, None, None], self.locality[:, 2, None, None]
        return (linear * offset + square * offset**2).softmax(dim=-1)

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        content = super().compare(q, k)  # (B, h, N, N)
        gate = self.gate.sigmoid().view(-1, 1, 1)
        # Prefix tokens have no position: their rows take content alone (share 1), and their columns
        # get no position. Rows still sum to 1.
        position = F.pad(gate * self.positional(), (self.prefix, 0, self.prefix, 0))
        share = F.pad(1 - gate.expand(-1, math.prod(self.grid), 1), (0, 0, self.prefix, 0), value=1)
        return share * content + position


class RelativeAttention(Attention):
    """softmax(q k^T / sqrt(d) + bias), a bias learned for each offset (BEiT, Bao et al., 2022).

    ``relative_position_bias_table`` ``((2 rows - 1)(2 cols - 1) + 3, h)``, timm's name and order,
    starts at 0. Its last three rows are those from a prefix token to a patch, from a patch to a
    prefix token, and among prefix tokens.
    """

    index: Tensor

    def __init__(self, *, grid: tuple[int, int], prefix: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        table = torch.zeros(relative_rows(grid), self.num_heads)
        self.relative_position_bias_table = nn.Parameter(table)
        self.register_buffer("index", relative_index(grid, prefix), persistent=False)

    def bias(self) -> Tensor:
        """What is added to the logits of all images: ``(h, N, N)``."""
        return self.relative_position_bias_table[self.index].permute(2, 0, 1)

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        logits = q * self.scale @ k.transpose(-2, -1)
        return (logits + self.bias().to(q.dtype)).softmax(dim=-1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        # The fused kernel takes the bias as a mask, which it adds to the logits.
        bias = self.bias().to(q.dtype)[None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def relative_rows(grid: tuple[int, int]) -> int:
    """Rows in the table of relative positions: one for each offset, and three for prefix tokens."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def relative_index(grid: tuple[int, int], prefix: int) -> Tensor:
    """The row of the table for each query and key: int64 ``(prefix+N, prefix+N)``."""
    # On the CPU even for a model on the meta device: no checkpoint holds the numbers.
    device = torch.device("cpu") if torch.get_default_device().type == "meta" else None
    rows, cols = grid
    y = torch.arange(rows, device=device).repeat_interleave(cols)
    x = torch.arange(cols, device=device).repeat(rows)
    down, across = y[:, None] - y + rows - 1, x[:, None] - x + cols - 1  # from 0
    index = F.pad(down * (2 * cols - 1) + across, (prefix, 0, prefix, 0))
    total = relative_rows(grid)
    index[:prefix], index[prefix:, :prefix], index[:prefix, :prefix] = (
        total - 3,
        total - 2,
        total - 1,
    )
    return index


ATTENTIONS: dict[str, type[Attention]] = {
    "softmax": Attention,
    "lsa": LocalitySelfAttention,
    "gpsa": GatedPositionalAttention,
    "relative": RelativeAttention,
}


def usual_gpsa_blocks(depth: int) -> int:
    """The default number of gpsa blocks: all but the last two, as in ConViT."""
    return max(1, depth - 2)


def attention_layers(
    kind: AttentionName,
    depth: int,
    grid: tuple[int, int],
    prefix: int,
    gpsa_blocks: int | None = None,
    locality_strength: float = 1.0,
) -> list[Callable[..., Attention]]:
    """One constructor of an attention layer for each block; it takes the arguments all kinds share.

    gpsa_blocks: see ViT; the blocks after them have softmax. Raises InputError if gpsa_blocks or
    locality_strength is out of range, or is given with another kind of attention.
    """
    if kind != "gpsa":
        for name, value, usual in (
            ("gpsa_blocks", gpsa_blocks, None),
            ("locality_strength", locality_strength, 1.0),
        ):
            if value != usual:
                raise InputError(
                    f"{name} {value} applies to attention gpsa only; leave it out with {kind}, "
                    f"or give attention gpsa",
                    argument=(name, "attention"),
                )
        if kind == "relative":
            return [partial(RelativeAttention, grid=grid, prefix=prefix)] * depth
        return [ATTENTIONS[kind]] * depth
    if not (math.isfinite(locality_strength) and locality_strength >= 0):
        raise InputError(
            f"locality_strength {locality_strength} is negative or not finite; 1 is usual",
            argument="locality_strength",
        )
    count = usual_gpsa_blocks(depth) if gpsa_blocks is None else gpsa_blocks
    if not 1 <= count <= depth:
        raise InputError(
            f"gpsa_blocks {count} is not in 1..{depth}, the blocks of the model; "
            f"give attention softmax for none",
            argument=("gpsa_blocks", "attention"),
        )
    gated = partial(
        GatedPositionalAttention, grid=grid, prefix=prefix, locality_strength=locality_strength
    )
    return [gated] * count + [Attention] * (depth - count)
