"""Attention against its own matrices, torch's MultiheadAttention and timm's Attention."""

import pytest
import torch
from timm.models.vision_transformer import Attention as TimmAttention
from torch import nn

from vitlit.attention import Attention
from vitlit.errors import InputError

TOKENS = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def attention(**changes: int | float | bool) -> Attention:
    """In float64, with every parameter far from zero."""
    torch.manual_seed(1)
    layer = Attention(**{"dim": 12, "num_heads": 3, **changes}).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def test_forward_equals_the_weights_times_the_values() -> None:
    layer = attention()
    values = layer.project(TOKENS)[2]
    mixed = (layer.weights(TOKENS) @ values).transpose(1, 2).reshape(2, 7, 12)
    torch.testing.assert_close(layer(TOKENS), layer.proj(mixed), rtol=0, atol=1e-12)


def test_forward_and_weights_agree_to_1e_6_in_float32() -> None:
    layer, tokens = attention().float(), TOKENS.float()
    values = layer.project(tokens)[2]
    mixed = (layer.weights(tokens) @ values).transpose(1, 2).reshape(2, 7, 12)
    torch.testing.assert_close(layer(tokens), layer.proj(mixed), rtol=1e-6, atol=1e-6)


def test_weights_equal_those_of_torchs_multihead_attention() -> None:
    layer = attention()
    reference = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(layer.qkv.weight)
        reference.in_proj_bias.copy_(layer.qkv.bias)
    _, weights = reference(TOKENS, TOKENS, TOKENS, average_attn_weights=False)
    torch.testing.assert_close(layer.weights(TOKENS), weights, rtol=0, atol=1e-12)


def test_rows_of_the_weights_sum_to_one() -> None:
    sums = attention().weights(TOKENS).sum(dim=-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("num_heads", [1, 4, 12])
def test_forward_equals_timm_with_the_same_weights(num_heads: int, qkv_bias: bool) -> None:
    layer = attention(num_heads=num_heads, qkv_bias=qkv_bias)
    reference = TimmAttention(12, num_heads, qkv_bias=qkv_bias).double()
    reference.load_state_dict(layer.state_dict(), strict=True)
    torch.testing.assert_close(layer(TOKENS), reference(TOKENS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", ["attn_drop", "proj_drop"])
def test_dropout_acts_in_training_mode(rate: str) -> None:
    layer = attention(**{rate: 0.5})
    assert not torch.allclose(layer.train()(TOKENS), layer.eval()(TOKENS))


@pytest.mark.parametrize("rate", ["attn_drop", "proj_drop"])
def test_dropout_does_nothing_in_evaluation_mode(rate: str) -> None:
    assert torch.equal(attention(**{rate: 0.5}).eval()(TOKENS), attention().eval()(TOKENS))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_weights_are_shown_without_dropout(mode: str) -> None:
    layer = attention(attn_drop=0.5).train(mode == "train")
    assert torch.equal(layer.weights(TOKENS), attention().weights(TOKENS))


@pytest.mark.parametrize("num_heads", [5, 0, -3])
def test_heads_that_do_not_divide_the_width_are_refused(num_heads: int) -> None:
    with pytest.raises(InputError, match=f"num_heads {num_heads} does not divide embed_dim 12"):
        Attention(dim=12, num_heads=num_heads)
