"""Low-rank adapters: what they start from, what they train, and merging against the formula."""

from typing import Any

import pytest
import torch
from small_vit import small
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.blocks import Block
from vitlit.model.low_rank import add_adapters, merge_adapters, without_adapters
from vitlit.model.vit import ViT

IMAGES = torch.linspace(-1, 1, 4 * 8 * 12).view(4, 1, 8, 12).double()
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gpsa": {"attention": "gpsa"},
    "without biases, rope": {"qkv_bias": False, "rope": "index", "qk_norm": True},
}


def adapted(rank: int = 2, alpha: float = 3.0, *, first: int = 0, **changes: Any) -> ViT:
    """With adapters that were trained, so to say: no B is at zero."""
    model = small(**changes)
    add_adapters(model, rank, alpha, first=first)
    for name, weight in model.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_adapters_change_nothing_at_first(name: str) -> None:
    model = small(**VARIANTS[name])
    expected = model(IMAGES)
    add_adapters(model, 2, 2)
    assert torch.equal(model(IMAGES), expected)
    a = dict(model.named_parameters())["blocks.1.attn.qkv.lora_a"]
    assert a.shape == (2, 16)
    assert a.abs().min() > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_merged_weights_compute_what_adapters_do(name: str) -> None:
    model = adapted(**VARIANTS[name])
    plain = small(**VARIANTS[name])
    plain.load_state_dict(merge_adapters(model.state_dict(), 3.0))
    assert (model(IMAGES) - plain(IMAGES)).abs().max() < 1e-5
    plain.load_state_dict(without_adapters(model.state_dict()))
    assert (model(IMAGES) - plain(IMAGES)).abs().max() > 1e-2


def test_an_adapter_adds_its_product_times_alpha_by_rank() -> None:
    model = adapted(rank=4, alpha=6.0)
    block = model.blocks[0]
    assert isinstance(block, Block)
    layer: Any = block.attn.qkv
    x = torch.randn(3, 16, dtype=torch.float64)
    slow = torch.stack(
        [layer.weight @ row + layer.bias + 1.5 * (layer.lora_b @ (layer.lora_a @ row)) for row in x]
    )
    torch.testing.assert_close(layer(x), slow)


def test_without_alpha_the_product_is_added_once() -> None:
    state = {"l.weight": torch.zeros(3, 4), "l.lora_a": torch.ones(2, 4)}
    state["l.lora_b"] = torch.ones(3, 2)
    assert merge_adapters(state, None)["l.weight"].unique().tolist() == [2.0]


def test_adapters_and_head_alone_have_gradients() -> None:
    model = adapted(first=1).train()
    model(IMAGES).square().sum().backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    layers = [f"blocks.{i}.attn.{part}" for i in (1, 2) for part in ("qkv", "proj")]
    expected = {f"{layer}.{side}" for layer in layers for side in ("lora_a", "lora_b")}
    assert trained == expected | {"head.weight", "head.bias"}


def gradients(model: ViT) -> dict[str, Tensor]:
    model.zero_grad()
    model(IMAGES).square().sum().backward()
    return {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }


def test_blocks_computed_again_give_adapters_the_same_gradients() -> None:
    model = adapted().train()
    expected = gradients(model)
    model.blocks.set_grad_checkpointing(True)
    found = gradients(model)
    assert len(found) == len(expected) == 14
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_rank_as_large_as_the_width_is_refused() -> None:
    with pytest.raises(InputError, match="lora_rank 16 is not below embed_dim 16"):
        add_adapters(small(), 16, 16)
