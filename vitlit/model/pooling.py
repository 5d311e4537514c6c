"""Sequence pooling: a mean of the tokens with learned weights (CCT, Hassani et al., 2021).

tokens (B, N, D) -> features (B, D)
"""

from torch import Tensor, nn


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
