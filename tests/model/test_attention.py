"""Attention against its own matrices, torch's MultiheadAttention and timm's Attention."""

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import RotaryEmbeddingCat, apply_rot_embed_cat
from timm.models.vision_transformer import Attention as TimmAttention
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model import attention as module
from vitlit.model.attention import Attention, attend, prefers_matmul
from vitlit.model.positions import rope2d

TOKENS = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def attention(**changes: Any) -> Attention:
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


def test_rope_rotates_queries_and_keys_as_timms_does_and_leaves_the_values() -> None:
    """One head after the other, without ``project``, which ``weights`` and ``forward`` share."""
    layer = attention(rope=rope2d((2, 3), 4, prefix=1))
    turn = RotaryEmbeddingCat(4, temperature=100, in_pixels=False, feat_shape=[2, 3]).get_embed()
    rows: list[Tensor] = []
    weights: list[Tensor] = []
    for head in range(3):
        q, k, v = (
            TOKENS @ layer.qkv.weight[start : start + 4].T + layer.qkv.bias[start : start + 4]
            for start in (4 * head, 12 + 4 * head, 24 + 4 * head)
        )
        for x in (q, k):
            x[:, 1:] = apply_rot_embed_cat(x[:, 1:], turn.double())
        weights.append((q @ k.mT / 2).softmax(dim=-1))
        rows.append(weights[-1] @ v)
    found, expected = layer.weights(TOKENS), torch.stack(weights, dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    expected = layer.proj(torch.cat(rows, dim=-1))
    torch.testing.assert_close(layer(TOKENS), expected, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_both_ways_to_attend_agree(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=draw, dtype=torch.float64).to(dtype)
    outputs = []
    for choice in (True, False):
        monkeypatch.setattr(module, "prefers_matmul", lambda *_, choice=choice: choice)
        outputs.append(attend(q, k, v))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-2
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=tolerance)


def test_dropout_of_the_unfused_way_spares_the_expected_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "prefers_matmul", lambda *_: True)
    torch.manual_seed(0)
    zeros, eye = torch.zeros(8, 4, 64, 64), torch.eye(64).expand(8, 4, 64, 64)
    weights = attend(zeros, zeros, eye, dropout=0.25)  # each is 0 or 1 / 64 / 0.75
    assert (weights > 0).float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert weights.max().item() == pytest.approx(1 / 64 / 0.75)


def test_only_cpus_with_bfloat16_units_prefer_matrix_products_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vitlit.model.attention.has_bf16_units", lambda device: True)
    cases = [("cpu", torch.bfloat16), ("cpu", torch.float32), ("cuda", torch.bfloat16)]
    assert [prefers_matmul(*case) for case in cases] == [True, False, False]
    monkeypatch.setattr("vitlit.model.attention.has_bf16_units", lambda device: False)
    assert not prefers_matmul("cpu", torch.bfloat16)


@pytest.mark.skipif(not module.CPUS.is_file(), reason="Linux alone describes processors in a file")
def test_linux_and_torch_agree_on_bfloat16_units(monkeypatch: pytest.MonkeyPatch) -> None:
    by_torch = module.processor_has_bf16_units()
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert module.processor_has_bf16_units() == by_torch


@pytest.mark.parametrize(("flag", "expected"), [("avx512_bf16", True), ("avx512f", False)])
def test_processors_are_known_by_their_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, expected: bool
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(module, "CPUS", tmp_path / "cpuinfo")
    assert not module.processor_has_bf16_units()  # there is no such file
    module.CPUS.write_text(f"flags : fpu avx2 {flag} sse\n")
    assert module.processor_has_bf16_units() == expected
