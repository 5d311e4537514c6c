"""The normalisation of tokens: LayerNorm, or RMSNorm, which neither centres nor shifts them.

tokens (B, N, D) -> tokens (B, N, D)
"""

from collections.abc import Callable
from typing import Literal

from torch import nn

NormName = Literal["layer", "rms"]
MakeNorm = Callable[[int], nn.Module]  # width of the tokens -> their norm


def make_norm(kind: NormName, dim: int, eps: float) -> nn.Module:
    """The norm of this kind (Ba et al., 2016; Zhang and Sennrich, 2019) over ``dim`` channels."""
    return nn.LayerNorm(dim, eps=eps) if kind == "layer" else nn.RMSNorm(dim, eps=eps)
