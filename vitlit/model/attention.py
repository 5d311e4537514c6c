"""Multi-head self-attention (Vaswani et al., 2017), fused for speed and explicit on demand.

tokens (B, N, D) -> tokens (B, N, D); weights (B, h, N, N)
"""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.norms import MakeNorm
from vitlit.model.positions import rotate_pairs

CPUS = Path("/proc/cpuinfo")  # of Linux; elsewhere float32 is the safe answer
# Environment variable, yes or no, that overrides what the processor reports: tests pass with both.
UNITS_VARIABLE = "VITLIT_BF16_UNITS"


def processor_has_bf16_units() -> bool:
    """Whether this CPU has instructions that multiply bfloat16 matrices."""
    names = ("avx512_bf16", "amx_tile")
    if hasattr(torch.cpu, "get_capabilities"):  # older versions of torch have no public way
        return any(torch.cpu.get_capabilities().get(name, False) for name in names)
    flags = CPUS.read_text(encoding="utf-8").split() if CPUS.is_file() else []
    return any(name in flags for name in names)


# Asked once: prefers_matmul needs the answer in every block of every step.
_CPU_HAS_UNITS = {"yes": True, "no": False}.get(
    os.environ.get(UNITS_VARIABLE, ""), processor_has_bf16_units()
)


def has_bf16_units(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 matrices; without such units bfloat16 is slow.

    device: the type of the device, such as cpu.
    """
    if device == "cuda":  # compute capability 8.0 is Ampere, the first with bfloat16
        return torch.cuda.get_device_capability() >= (8, 0)
    return device == "cpu" and _CPU_HAS_UNITS


def prefers_matmul(device: str, dtype: torch.dtype) -> bool:
    """Whether softmax between two matrix products trains faster than the fused kernel.

    It does on a CPU with bfloat16 units, because the backward pass of the fused kernel does not
    use them: a training step is 2.1 times as fast with 12 heads, 1.5 times with 3 heads
    (benchmarks/train_step.py). In float32, on GPUs and on CPUs without such units the fused kernel
    is the faster one.
    """
    return device == "cpu" and dtype == torch.bfloat16 and has_bf16_units(device)


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, each ``(B, h, N, d)``, by the faster way on this device."""
    if not prefers_matmul(q.device.type, q.dtype):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    # The scale goes on q, (N, d), which is smaller than the product, (N, N).
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
    return F.dropout(weights, dropout, training=dropout > 0) @ v


class Attention(nn.Module):
    """Multi-head softmax attention with timm's parameter names (``qkv``, ``proj``).

    ``forward`` is fused; ``weights`` computes the attention matrices of the same input, equal to
    1e-6. Subclasses with another kind of attention override :meth:`compare` and :meth:`mix`.
    """

    rope: Tensor | None
    norm: nn.Module | None

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        rope: Tensor | None = None,
        qk_norm: MakeNorm | None = None,
        sub_norm: MakeNorm | None = None,
    ) -> None:
        """rope: cosines and sines ``(2, N, D/h)`` of the rotary positions of all tokens.

        qk_norm: makes the norm of queries and keys, over the width of a head; sub_norm: that of
        the output before ``proj``. By default there are none.
        """
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise InputError(
                f"num_heads {num_heads} does not divide embed_dim {dim}; change one of them",
                argument=("num_heads", "embed_dim"),
            )
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm, self.k_norm = (
            None if qk_norm is None else qk_norm(dim // num_heads) for _ in "qk"
        )
        self.norm = None if sub_norm is None else sub_norm(dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        # Not saved: it follows from the arguments, and timm's state dicts have no such key.
        self.register_buffer("rope", rope, persistent=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens ``(B, N, D)``, each ``(B, h, N, D/h)``."""
        b, n, dim = x.shape
        shape = b, n, 3, self.num_heads, dim // self.num_heads
        qkv = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.q_norm is not None and self.k_norm is not None:
            # The cast is for autocast, which computes norms in float32.
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if self.rope is not None:  # values carry no position: only q k^T sees the offset
            q, k = rotate_pairs(q, self.rope), rotate_pairs(k, self.rope)
        return q, k, v

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        """Attention matrices ``(B, h, N, N)`` of queries and keys ``(B, h, N, D/h)``."""
        return (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Values ``(B, h, N, D/h)`` averaged with the weights of :meth:`compare`, after dropout."""
        # Without compare: attend fuses it with the product, so the two must stay the same function.
        return attend(q, k, v, dropout)

    def weights(self, x: Tensor) -> Tensor:
        """Attention matrices ``(B, h, N, N)`` without dropout; each row sums to 1."""
        q, k, _ = self.project(x)
        return self.compare(q, k)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        dropout = self.attn_drop if self.training else 0.0
        x = self.mix(q, k, v, dropout)  # (B, h, N, D/h)
        x = x.transpose(1, 2).flatten(2)  # (B, N, D)
        if self.norm is not None:
            x = self.norm(x)
        return self.proj_drop(self.proj(x))

    @property
    def mixed_values_reader(self) -> nn.Module:
        """The module whose input is the output of :meth:`mix`, heads joined: ``(B, N, D)``."""
        return self.proj if self.norm is None else self.norm
