"""What a model costs, against torch's own counter, a closed form and published figures."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitlit.model.cost import cost_by_part, token_count
from vitlit.model.vit import ViT

TINY: dict[str, Any] = {"img_size": [16, 24], "patch_size": 4, "embed_dim": 24, "depth": 2}
TINY |= {"num_heads": 3, "num_classes": 7}
KINDS: list[dict[str, Any]] = [
    {},
    {"global_pool": "avg", "patch_embed": "linear", "pos_embed": "sincos2d"},
    {"patch_embed": "conv_stem", "global_pool": "seq", "num_heads": 4},
    {"patch_embed": "conv_stem", "stem_convs": 2, "norm": "rms"},
    {"patch_embed": "shifted", "attention": "lsa", "pos_embed": "rope", "reg_tokens": 4},
    {"attention": "gpsa", "init_values": 0.1, "qkv_bias": False, "num_classes": 0},
    {"global_pool": "map", "reg_tokens": 2, "mlp": "swiglu", "rope": "centred", "num_heads": 3},
    {"global_pool": "map", "class_token": True, "pool_include_prefix": True, "pre_norm": True},
]


@pytest.mark.parametrize("changes", KINDS)
def test_flops_are_those_that_torch_counts(changes: dict[str, Any]) -> None:
    vit = ViT(**{**TINY, **changes}).eval()
    # The mathematical kernel: torch 2.11 does not count the fused one of the CPU.
    kernel = sdpa_kernel(SDPBackend.MATH)
    with kernel, FlopCounterMode(display=False) as counter, torch.no_grad():
        vit(torch.zeros(1, 3, 16, 24))
    counted = {name: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}
    found = {name: cost.flops for name, cost in cost_by_part(vit).items()}
    assert sum(found.values()) == counted["Global"]
    assert found["embedding"] == counted["ViT.patch_embed"]
    assert found["blocks"] == counted["ViT.blocks"]


@pytest.mark.parametrize("changes", KINDS)
def test_parameters_are_all_that_there_are(changes: dict[str, Any]) -> None:
    vit = ViT(**{**TINY, **changes})
    found = {name: cost.parameters for name, cost in cost_by_part(vit).items()}
    assert sum(found.values()) == sum(one.numel() for one in vit.parameters())
    assert found["blocks"] == sum(one.numel() for one in vit.blocks.parameters())


def test_a_base_model_costs_what_is_published() -> None:
    """86.57 million parameters, 17.58 billion multiplications: timm's table of results."""
    with torch.device("meta"):
        vit = ViT()
    parts = cost_by_part(vit)
    assert round(sum(cost.parameters for cost in parts.values()) / 1e6, 2) == 86.57
    assert sum(cost.flops for cost in parts.values()) / 2e9 == pytest.approx(17.58, rel=2e-3)
    assert token_count(vit) == 197


def test_a_plain_model_costs_what_its_matrices_say() -> None:
    patches, tokens, width, depth = 24, 25, 24, 2
    expected = 2 * patches * 48 * width + 2 * width * 7
    expected += depth * (24 * tokens * width**2 + 4 * tokens**2 * width)
    assert sum(cost.flops for cost in cost_by_part(ViT(**TINY)).values()) == expected
