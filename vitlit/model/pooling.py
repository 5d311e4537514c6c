"""Learned poolings: sequence pooling (CCT) and attention pooling with a query of its own (MAP).

tokens (B, N, D) -> features (B, D)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.blocks import ActName, Mlp
from vitlit.model.norms import MakeNorm


class SequencePool(nn.Module):
    """Weighted mean of the tokens, with weights from the tokens (Hassani et al., 2021, eq. 5).

    A linear layer scores each token; the weights are the softmax of the scores over the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        # No bias: it would add the same number to all scores, and the softmax would drop it.
        self.score = nn.Linear(dim, 1, bias=False)

    def shares(self, tokens: Tensor) -> Tensor:
        """The weight of each of the tokens ``(B, N, D)``: ``(B, N)``, rows sum to 1."""
        return self.score(tokens).squeeze(2).softmax(dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        # The cast is for autocast, which computes softmax in float32.
        return (self.shares(tokens)[:, None].to(tokens.dtype) @ tokens).squeeze(1)


class AttentionPool(nn.Module):
    """Multi-head attention pooling, with timm's parameter names (MAP, Zhai et al., 2022).

    A learned query attends to all tokens; an MLP with a norm and a residual follows: the pooling of
    SigLIP (Zhai et al., 2023) and of the Perception Encoder (Bolya et al., 2025).
    """

    def __init__(
        self, *, dim: int, num_heads: int, hidden: int, norm: MakeNorm, act: ActName = "gelu"
    ) -> None:
        """hidden: width of the MLP. Raises InputError if num_heads does not divide dim."""
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise InputError(
                f"pool_heads {num_heads} does not divide embed_dim {dim}; change one of them",
                argument=("pool_heads", "embed_dim"),
            )
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = norm(dim)
        self.mlp = Mlp(dim=dim, hidden=hidden, act=act)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The query ``(B, h, 1, D/h)``, and keys and values ``(B, h, N, D/h)`` of the tokens."""
        b, n, dim = tokens.shape
        heads, width = self.num_heads, dim // self.num_heads
        # The projected query has no batch yet: it is the same for all images.
        q = self.q(self.latent).view(1, 1, heads, width).transpose(1, 2)
        k, v = self.kv(tokens).view(b, n, 2, heads, width).permute(2, 0, 3, 1, 4).unbind(0)
        return q.expand(b, -1, -1, -1), k, v

    def shares(self, tokens: Tensor) -> Tensor:
        """The mean attention of the heads to each of the tokens: ``(B, N)``, rows sum to 1."""
        q, k, _ = self.project(tokens)
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)  # (B, h, 1, N)
        return weights.mean(dim=1).squeeze(1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.scaled_dot_product_attention(*self.project(tokens))  # (B, h, 1, D/h)
        x = self.proj(x.flatten(1))  # (B, D): one query, so heads are neighbours already
        return x + self.mlp(self.norm(x))
