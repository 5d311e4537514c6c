"""The encoder: blocks of attention and MLP, each with a LayerNorm before and a residual around it.

tokens (B, N, D) -> tokens (B, N, D)
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from vitlit.model.attention import Attention

ActName = Literal["gelu", "gelu_tanh"]


class Mlp(nn.Module):
    """Two linear layers with a GELU between: tokens ``(B, N, D)`` -> ``(B, N, D)``."""

    def __init__(self, *, dim: int, hidden: int, drop: float = 0.0, act: ActName = "gelu") -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        # Logits move by 1.3e-4 if published weights run with the other GELU.
        self.act = nn.GELU(approximate="tanh" if act == "gelu_tanh" else "none")
        self.drop = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        # Dropout after both layers, as in the paper's code and timm.
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al., 2021): ``(B, N, D)`` -> ``(B, N, D)``."""

    def __init__(self, dim: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init_value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm encoder block: tokens ``(B, N, D)`` -> ``(B, N, D)`` (paper, eq. 2 and 3)."""

    def __init__(
        self,
        *,
        dim: int,
        attn: Attention,
        mlp: Mlp,
        drop_path: float,
        norm_eps: float,
        init_values: float | None,
    ) -> None:
        super().__init__()
        # Keep the order of these lines: optimisers save their state by the place of a parameter.
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attn
        self.ls1 = nn.Identity() if init_values is None else LayerScale(dim, init_values)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = mlp
        self.ls2 = nn.Identity() if init_values is None else LayerScale(dim, init_values)
        # Mode "row" decides for each image (Huang et al., 2016); "batch" would drop all or none.
        self.drop_path = StochasticDepth(drop_path, mode="row") if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


def encoder(
    layers: Sequence[Callable[..., Attention]],
    drop_path_rate: float,
    dim: int,
    *,
    attn: dict[str, Any],
    mlp: dict[str, Any],
    block: dict[str, Any],
) -> nn.Sequential:
    """The blocks, one for each of ``layers``: constructors of attention that get ``attn``.

    drop_path_rate: stochastic depth rate of the last block; it grows linearly from 0 at the first.
    mlp, block: arguments of Mlp and Block.
    """
    # On the CPU even for a model on the meta device, whose tensors hold no numbers to list.
    rates = torch.linspace(0, drop_path_rate, len(layers), device="cpu").tolist()
    blocks = nn.Sequential()
    for make_attention, rate in zip(layers, rates, strict=True):
        layer = make_attention(dim=dim, **attn)
        blocks.append(Block(dim=dim, attn=layer, mlp=Mlp(dim=dim, **mlp), drop_path=rate, **block))
    return blocks
