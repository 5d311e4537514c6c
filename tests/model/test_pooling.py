"""Sequence pooling against a loop and closed forms."""

import torch
from torch import nn

from vitlit.model.pooling import SequencePool

TOKENS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pool() -> SequencePool:
    torch.manual_seed(1)
    layer = SequencePool(4).double()
    nn.init.normal_(layer.score.weight)
    return layer


def test_the_pool_equals_a_loop_over_the_tokens() -> None:
    layer = pool()
    found = layer(TOKENS)
    for image, features in zip(TOKENS, found, strict=True):
        scores = torch.stack([layer.score.weight[0] @ token for token in image])
        parts = scores.exp() / scores.exp().sum()
        total = sum(part * token for part, token in zip(parts, image, strict=True))
        torch.testing.assert_close(features, total)


def test_without_scores_it_is_the_mean() -> None:
    layer = pool()
    nn.init.zeros_(layer.score.weight)
    torch.testing.assert_close(layer(TOKENS), TOKENS.mean(dim=1))


def test_a_far_higher_score_takes_its_token_alone() -> None:
    layer = pool()
    with torch.no_grad():
        layer.score.weight.copy_(torch.tensor([[1000.0, 0, 0, 0]]))
    best = TOKENS[:, :, 0].argmax(dim=1)
    torch.testing.assert_close(layer(TOKENS), TOKENS[torch.arange(3), best])


def test_the_order_of_the_tokens_does_not_matter() -> None:
    torch.testing.assert_close(pool()(TOKENS.flip(1)), pool()(TOKENS))


def test_its_gradient_is_that_of_finite_differences() -> None:
    layer = pool()

    def run(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"score.weight": weight}, tokens)

    inputs = (TOKENS.clone().requires_grad_(), layer.score.weight.detach().requires_grad_())
    assert torch.autograd.gradcheck(run, inputs)
