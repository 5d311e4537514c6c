"""Blocks that are computed again in the backward pass, against the same blocks kept whole."""

from typing import Any

import pytest
import torch
from small_vit import small
from torch import Tensor

from vitlit.model.vit import ViT

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"proj_drop_rate": 0.3, "drop_path_rate": 0.5},
    "attention dropout": {"attn_drop_rate": 0.3, "rope": "index"},
    "gpsa": {"attention": "gpsa", "attn_drop_rate": 0.3},
}
IMAGES = torch.linspace(-1, 1, 4 * 8 * 12).view(4, 1, 8, 12)


def gradients(model: ViT, enable: bool) -> dict[str, Tensor]:
    model.blocks.set_grad_checkpointing(enable)
    model.zero_grad()
    torch.manual_seed(3)
    model(IMAGES).square().sum().backward()
    return {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }


def saved_numbers(model: ViT, enable: bool) -> int:
    """How many numbers the graph of a forward pass keeps, those of tensors kept twice twice."""
    model.blocks.set_grad_checkpointing(enable)
    counts: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        counts.append(0 if tensor.is_leaf and tensor.requires_grad else tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(IMAGES.to(model.head.weight.dtype))
    return sum(counts)


@pytest.mark.parametrize("name", VARIANTS)
def test_blocks_computed_again_give_the_same_gradients_to_the_bit(name: str) -> None:
    model = small(**VARIANTS[name]).float().train()
    expected, found = gradients(model, False), gradients(model, True)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_blocks_computed_again_keep_their_inputs_alone() -> None:
    model = small(depth=6).float().train()
    whole, again = saved_numbers(model, False), saved_numbers(model, True)
    deeper = small(depth=7).float().train()
    # 4 images of 7 tokens of 16 numbers for each block
    assert saved_numbers(deeper, True) - again == 4 * 7 * 16
    assert again < whole / 5


def test_an_evaluation_computes_nothing_again() -> None:
    model = small().float()
    assert saved_numbers(model, True) == saved_numbers(model, False)


def test_frozen_blocks_stay_without_gradients() -> None:
    model = small().float().train()
    for part in (model.patch_embed, model.blocks[0]):
        part.requires_grad_(False)
    assert not {name for name in gradients(model, True) if name.startswith("blocks.0.")}
    assert model.blocks[1].attn.qkv.weight.grad is not None
