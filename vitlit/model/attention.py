"""Self-attention (Vaswani et al., 2017), fused for speed and explicit for inspection.

tokens (B, N, D) -> tokens (B, N, D); weights (B, h, N, N)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.evaluation import precision
from vitlit.model.positions import rotate_pairs


def prefers_matmul(device: str, dtype: torch.dtype) -> bool:
    """Whether softmax between two matrix products trains faster than the fused kernel.

    It does on a CPU with bfloat16 units, where the fused kernel's backward pass does not use them
    (about twice as fast). In float32, on GPUs, and on CPUs without such units the fused one wins.
    """
    return device == "cpu" and dtype == torch.bfloat16 and precision.has_bf16_units(device)


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
