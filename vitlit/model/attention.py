"""Multi-head self-attention, fused for speed and explicit on demand, and its two local kinds.

tokens (B, N, D) -> tokens (B, N, D); weights (B, h, N, N)

softmax (Vaswani et al., 2017); lsa (Lee et al., 2021); gpsa (d'Ascoli et al., 2021)."""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.positions import rotate_pairs

CPUS = Path("/proc/cpuinfo")  # what Linux says of the processor; other systems have no such file
UNITS_VARIABLE = "VITLIT_BF16_UNITS"  # yes or no: what another processor would answer; tests set it


def processor_has_bf16_units() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself."""
    names = ("avx512_bf16", "amx_tile")
    if hasattr(torch.cpu, "get_capabilities"):  # older versions of torch have no public way
        return any(torch.cpu.get_capabilities().get(name, False) for name in names)
    flags = CPUS.read_text(encoding="utf-8").split() if CPUS.is_file() else []
    return any(name in flags for name in names)


_CPU_HAS_UNITS = {"yes": True, "no": False}.get(
    os.environ.get(UNITS_VARIABLE, ""), processor_has_bf16_units()
)


def has_bf16_units(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices itself; others compute them slowly.

    device: its type, such as cpu.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return device == "cpu" and _CPU_HAS_UNITS


def prefers_matmul(device: str, dtype: torch.dtype) -> bool:
    """Whether softmax between two matrix products trains faster than the fused kernel.

    It does on a CPU with bfloat16 units, where the fused kernel's backward pass does not use them
    (about twice as fast). In float32, on GPUs, and on CPUs without such units the fused one wins.
    """
    return device == "cpu" and dtype == torch.bfloat16 and has_bf16_units(device)


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of ``(B, h, N, d)`` each, by whichever way is faster here."""
    if not prefers_matmul(q.device.type, q.dtype):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
    return F.dropout(weights, dropout, training=dropout > 0) @ v


class Attention(nn.Module):
    """Multi-head softmax attention with timm's parameter names (``qkv``, ``proj``).

    ``forward`` is fused; ``weights`` gives the matrices that the same input leads to. Subclasses
    that attend otherwise override :meth:`compare` and :meth:`mix`.
    """

    rope: Tensor | None

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        rope: Tensor | None = None,
    ) -> None:
        """rope: cosines and sines ``(2, N, D/h)`` of rotary positions, for all tokens."""
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise InputError(
                f"num_heads {num_heads} does not divide embed_dim {dim}; change either",
                argument=("num_heads", "embed_dim"),
            )
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.register_buffer("rope", rope, persistent=False)  # follows from the arguments

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens ``(B, N, D)``, each ``(B, h, N, D/h)``."""
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.rope is not None:
            q, k = rotate_pairs(q, self.rope), rotate_pairs(k, self.rope)
        return q, k, v

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        """Attention matrices ``(B, h, N, N)`` of queries and keys ``(B, h, N, D/h)``."""
        return (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Values ``(B, h, N, D/h)`` in the shares of :meth:`compare`, after dropout."""
        return attend(q, k, v, dropout)

    def weights(self, x: Tensor) -> Tensor:
        """Attention matrices ``(B, h, N, N)`` without dropout; each row sums to 1."""
        q, k, _ = self.project(x)
        return self.compare(q, k)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        dropout = self.attn_drop if self.training else 0.0
        x = self.mix(q, k, v, dropout)  # (B, h, N, D/h)
        x = self.proj(x.transpose(1, 2).flatten(2))  # (B, N, D)
        return self.proj_drop(x)


AttentionName = Literal["softmax", "lsa", "gpsa"]


class ExplicitAttention(Attention):
    """Computes the matrices that the fused kernels cannot: dropout(:meth:`compare`) times v."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        weights = self.compare(q, k)
        return F.dropout(weights, dropout, training=dropout > 0).to(v.dtype) @ v


class LocalitySelfAttention(ExplicitAttention):
    """LSA (Lee et al., 2021): no token attends to itself, and heads learn their temperature.

    ``sharpness`` ``(h,)`` is what q k^T is multiplied by, 1 / temperature: 1 / sqrt(D/h) at
    first, as in the paper's code. (A single token, which has no other, attends to itself.)
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sharpness = nn.Parameter(torch.full((self.num_heads,), self.scale))

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        logits = q * self.sharpness.view(-1, 1, 1).to(q.dtype) @ k.transpose(-2, -1)
        itself = torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
        lowest = torch.finfo(logits.dtype).min  # not -inf, whose softmax alone is no number
        return logits.masked_fill(itself, lowest).softmax(dim=-1)


class GatedPositionalAttention(ExplicitAttention):
    """GPSA (ConViT, d'Ascoli et al., 2021): each head weighs content against position.

    (1 - g) softmax(q k^T) + g softmax(position), with g = sigmoid(gate) of the head and, of the
    offset (x, y) from one patch to another, position = locality . (x, y, x^2 + y^2).

    ``gate`` ``(h,)`` is 1 at first; ``locality`` ``(h, 3)`` begins as a Gaussian around one
    offset for each head, see :meth:`start_local`. The paper lets the class token join after the
    gated blocks; here the prefix tokens are there from the first block on, and what they attend
    to, and how much they are attended to, is decided by content alone.
    """

    def __init__(
        self, *, grid: tuple[int, int], prefix: int, locality_strength: float, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.grid, self.prefix, self.locality_strength = grid, prefix, locality_strength
        self.gate = nn.Parameter(torch.ones(self.num_heads))
        self.locality = nn.Parameter(torch.zeros(self.num_heads, 3))

    @torch.no_grad()
    def start_local(self) -> None:
        """Begin as a convolution: head i looks at place i of a K x K kernel, values pass as is.

        Places are counted column by column, as in ConViT's code. K is the root of the number of
        heads, rounded down; heads beyond K x K look at the centre.
        """
        side = math.isqrt(self.num_heads)
        places = torch.arange(side) - (side - 1) / 2
        x, y = torch.meshgrid(places, places, indexing="ij")
        start = torch.zeros(self.num_heads, 3)  # -|offset - place|^2, less what all keys share
        start[: side * side, 0], start[: side * side, 1] = 2 * x.flatten(), 2 * y.flatten()
        start[:, 2] = -1
        self.locality.copy_(self.locality_strength * start)
        self.qkv.weight.chunk(3)[2].copy_(torch.eye(self.qkv.in_features))

    def positional(self) -> Tensor:
        """Attention by position alone, among the patches: ``(h, N, N)``, rows sum to 1.

        Its logits are a sum over the two axes, so it is the product of a softmax along each.
        """
        across, down = (
            self._along(count, axis) for axis, count in enumerate(reversed(self.grid))
        )  # (h, cols, cols) and (h, rows, rows)
        both = torch.einsum("hij,hkl->hikjl", down, across)
        return both.flatten(3).flatten(1, 2)

    def _along(self, count: int, axis: int) -> Tensor:
        place = torch.arange(count, device=self.locality.device, dtype=self.locality.dtype)
        offset = place - place[:, None]  # from the token that looks
        linear, square = self.locality[:, axis, None, None], self.locality[:, 2, None, None]
        return (linear * offset + square * offset**2).softmax(dim=-1)

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        content = super().compare(q, k)  # (B, h, N, N)
        gate = self.gate.sigmoid().view(-1, 1, 1)
        position = F.pad(gate * self.positional(), (self.prefix, 0, self.prefix, 0))
        share = F.pad(1 - gate.expand(-1, math.prod(self.grid), 1), (0, 0, self.prefix, 0), value=1)
        return share * content + position


ATTENTIONS: dict[str, type[Attention]] = {
    "softmax": Attention,
    "lsa": LocalitySelfAttention,
    "gpsa": GatedPositionalAttention,
}


def usual_gpsa_blocks(depth: int) -> int:
    """How many blocks have gpsa where nobody says: all but the last two, as in ConViT."""
    return max(1, depth - 2)


def attention_layers(
    kind: AttentionName,
    depth: int,
    grid: tuple[int, int],
    prefix: int,
    gpsa_blocks: int | None = None,
    locality_strength: float = 1.0,
) -> list[Callable[..., Attention]]:
    """What makes the attention of each block, from the arguments that all kinds share.

    gpsa_blocks: see ViT; the blocks after them have softmax.
    """
    if kind != "gpsa":
        for name, value, usual in (
            ("gpsa_blocks", gpsa_blocks, None),
            ("locality_strength", locality_strength, 1.0),
        ):
            if value != usual:
                raise InputError(
                    f"{name} {value} is of attention gpsa; leave it out with {kind}, or give "
                    f"attention gpsa",
                    argument=(name, "attention"),
                )
        return [ATTENTIONS[kind]] * depth
    if not (math.isfinite(locality_strength) and locality_strength >= 0):
        raise InputError(
            f"locality_strength {locality_strength} is not 0 or more; 1 is usual",
            argument="locality_strength",
        )
    count = usual_gpsa_blocks(depth) if gpsa_blocks is None else gpsa_blocks
    if not 1 <= count <= depth:
        raise InputError(
            f"gpsa_blocks {count} is not 1 to the {depth} blocks of the model; "
            f"give attention softmax for none",
            argument=("gpsa_blocks", "attention"),
        )
    gated = partial(
        GatedPositionalAttention, grid=grid, prefix=prefix, locality_strength=locality_strength
    )
    return [gated] * count + [Attention] * (depth - count)
