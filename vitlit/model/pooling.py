"""Pooling with learned shares, after the Compact Convolutional Transformer.

tokens (B, N, D) -> features (B, D)
"""

from torch import Tensor, nn


class SequencePool(nn.Module):
    """Mean of the tokens in shares that follow from the tokens (Hassani et al., 2021, eq. 5).

    The shares are the softmax over the tokens of a linear map of each to one number;
    a bias would change none of them.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)

    def shares(self, tokens: Tensor) -> Tensor:
        """What each of the tokens ``(B, N, D)`` counts: ``(B, N)``, summing to 1."""
        return self.score(tokens).squeeze(2).softmax(dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        return (self.shares(tokens)[:, None].to(tokens.dtype) @ tokens).squeeze(1)
