"""Low-rank adapters (LoRA, Hu et al., 2022): each of some matrices learns an update of rank r.

layer W (out, in) -> x -> W x + b + (alpha / r) B A x, with A (r, in) and B (out, r)

W and b keep their names and stay as they are; merging adds the update to W.
"""

import math
from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.blocks import Block
from vitlit.model.vit import ViT

A_NAME, B_NAME = "lora_a", "lora_b"


class LowRankLinear(nn.Linear):
    """A linear layer with an adapter; it shares its weight and bias with ``layer``.

    A starts as in the authors' code, B at zero: the output is the layer's until B is trained.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        has_bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, bias=has_bias, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.factor = alpha / rank
        self.lora_a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        # Through the narrow side: r numbers for each token, and no gradient of a whole matrix.
        update = F.linear(F.linear(x, self.lora_a), self.lora_b)  # (B, N, out)
        return super().forward(x) + self.factor * update


def add_adapters(vit: ViT, rank: int, alpha: float, *, first: int = 0) -> None:
    """Add adapters to ``qkv`` and ``proj`` of the attention in each block from ``first`` on.

    All other weights but the head's are frozen. Raises InputError if the rank is no smaller than
    the width of the model.
    """
    if rank >= vit.embed_dim:
        raise InputError(
            f"lora_rank {rank} is not below embed_dim {vit.embed_dim}, so the adapters would be "
            f"larger than what they adapt; give a smaller one, such as 8",
            argument="lora_rank",
        )
    vit.requires_grad_(False)
    vit.head.requires_grad_(True)
    for block in list(vit.blocks)[first:]:
        assert isinstance(block, Block)
        block.attn.qkv = LowRankLinear(block.attn.qkv, rank, alpha)
        block.attn.proj = LowRankLinear(block.attn.proj, rank, alpha)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name, of a state dict, belongs to an adapter."""
    return name.rpartition(".")[2] in (A_NAME, B_NAME)


def without_adapters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without adapters, whose updates are left out: that of a plain model."""
    return {name: value for name, value in state.items() if not is_adapter(name)}


def merge_adapters(state: dict[str, Tensor], alpha: float | None) -> dict[str, Tensor]:
    """The state of a plain model that computes what the model with adapters does.

    state: with names of any prefix, and the weight of every layer that has an adapter; alpha: None
    means the rank.
    """
    merged = without_adapters(state)
    for layer in adapted_layers(state):
        a, b = (state[f"{layer}.{name}"].float() for name in (A_NAME, B_NAME))
        weight = state[f"{layer}.weight"]
        update = (alpha or len(a)) / len(a) * (b @ a)
        merged[f"{layer}.weight"] = (weight.float() + update).to(weight.dtype)
    return merged


def adapted_layers(names: Iterable[str]) -> list[str]:
    """The layers that have adapters, by the names of a state dict."""
    return [name.rpartition(".")[0] for name in names if name.rpartition(".")[2] == A_NAME]
