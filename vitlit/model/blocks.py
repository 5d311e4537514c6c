"""A block of the encoder: attention and MLP, each with a norm before and a residual around it.

tokens (B, N, D) -> tokens (B, N, D)
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.model.attention import Attention
from vitlit.model.norms import MakeNorm

ActName = Literal["gelu", "gelu_tanh", "quick_gelu"]
MlpName = Literal["gelu", "swiglu"]


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), OpenAI CLIP's approximation of the GELU (Radford et al., 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def make_act(name: ActName) -> nn.Module:
    """The activation; logits move by 1e-4 to 1e-2 if published weights run with another one."""
    if name == "quick_gelu":
        return QuickGELU()
    return nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")


class Mlp(nn.Module):
    """Two linear layers with an activation between: tokens ``(B, N, D)`` -> ``(B, N, D)``."""

    norm: nn.Module | None

    def __init__(
        self,
        *,
        dim: int,
        hidden: int,
        drop: float = 0.0,
        act: ActName = "gelu",
        norm: MakeNorm | None = None,
    ) -> None:
        """norm: makes the norm before the second layer (EVA-02, BEiT-3); by default none."""
        super().__init__()
        self.fc1 = nn.Linear(dim, self._width(hidden))
        self.act = make_act(act)
        self.drop = nn.Dropout(drop)
        self.norm = None if norm is None else norm(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def _width(self, hidden: int) -> int:
        """Outputs of the first layer."""
        return hidden

    def activate(self, x: Tensor) -> Tensor:
        """Outputs of the first layer -> the ``hidden`` inputs of the second."""
        return self.act(x)

    def forward(self, x: Tensor) -> Tensor:
        # Dropout after both layers, as in the paper's code and timm.
        x = self.drop(self.activate(self.fc1(x)))
        if self.norm is not None:
            x = self.norm(x)
        return self.drop(self.fc2(x))


class SwiGluMlp(Mlp):
    """Gated MLP (Shazeer, 2020): the first layer's halves g and x become silu(g) * x.

    ``hidden`` is the width of a half. The argument ``act`` has no effect.
    """

    def _width(self, hidden: int) -> int:
        return 2 * hidden

    def activate(self, x: Tensor) -> Tensor:
        gate, x = x.chunk(2, dim=-1)
        return F.silu(gate) * x


MLPS: dict[str, type[Mlp]] = {"gelu": Mlp, "swiglu": SwiGluMlp}


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al., 2021): ``(B, N, D)`` -> ``(B, N, D)``."""

    def __init__(self, dim: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init_value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class StochasticDepth(nn.Module):
    """Drops whole images of a batch with probability p in training (Huang et al., 2016).

    ``(B, N, D)`` -> ``(B, N, D)``; those that are kept are scaled by 1 / (1 - p). It draws as
    torchvision's class does with mode "row", but importing that takes as long as importing torch.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty([len(x), *[1] * (x.ndim - 1)]).bernoulli_(1 - self.p)  # (B, 1, 1)
        return x * (kept if self.p == 1 else kept.div_(1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Block(nn.Module):
    """Pre-norm encoder block: tokens ``(B, N, D)`` -> ``(B, N, D)`` (paper, eq. 2 and 3)."""

    def __init__(
        self,
        *,
        dim: int,
        attn: Attention,
        mlp: Mlp,
        drop_path: float,
        norm: MakeNorm,
        init_values: float | None,
    ) -> None:
        super().__init__()
        # Keep the order of these lines: optimisers save their state by the place of a parameter.
        self.norm1 = norm(dim)
        self.attn = attn
        self.ls1 = nn.Identity() if init_values is None else LayerScale(dim, init_values)
        self.norm2 = norm(dim)
        self.mlp = mlp
        self.ls2 = nn.Identity() if init_values is None else LayerScale(dim, init_values)
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
