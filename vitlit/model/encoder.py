"""The encoder of a ViT: its blocks, built from the model's arguments.

tokens (B, N, D) -> tokens (B, N, D)
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitlit.model.arguments import hidden_width
from vitlit.model.blocks import MLPS, Block
from vitlit.model.local_attention import attention_layers
from vitlit.model.norms import MakeNorm
from vitlit.patches import Grid


def uncompiled() -> AbstractContextManager[object]:
    """Within it compiled models run as they are written, with the hooks that they have by then."""
    # The import of the compiler takes longer than that of torch; before it, nothing is compiled.
    has_compiler = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if has_compiler else nullcontext()


class Encoder(nn.Sequential):
    """Blocks one after the other: tokens ``(B, N, D)`` -> ``(B, N, D)``."""

    grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Whether training keeps only the input of each block (Chen et al., 2016).

        The backward pass computes what is inside a block again: less memory, a forward pass more.
        """
        self.grad_checkpointing = enable

    def forward(self, x: Tensor) -> Tensor:
        again = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        for block in self:
            # It restores the generator's state for the second pass: dropout draws the same again.
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x


def encoder(
    told: dict[str, Any], grid: Grid, prefix: int, *, rope: Tensor | None, norm: MakeNorm
) -> Encoder:
    """The blocks of a ViT with these arguments, as ``complete_arguments`` returns them.

    prefix: tokens before the patches; rope: rotations ``(2, N, D/h)`` of all tokens. The rate of
    stochastic depth grows linearly from 0 at the first block to ``drop_path_rate`` at the last.
    """
    dim, depth, drop = told["embed_dim"], told["depth"], told["proj_drop_rate"]
    attn = {
        "num_heads": told["num_heads"],
        "qkv_bias": told["qkv_bias"],
        "attn_drop": told["attn_drop_rate"],
        "proj_drop": drop,
        "rope": rope,
        "qk_norm": norm if told["qk_norm"] else None,
        "sub_norm": norm if told["sub_norm"] == "both" else None,
    }
    mlp = {
        "hidden": hidden_width(told, "mlp_ratio"),
        "drop": drop,
        "act": told["act"],
        "norm": norm if told["sub_norm"] != "none" else None,
    }
    make_attention = attention_layers(
        told["attention"], depth, grid, prefix, told["gpsa_blocks"], told["locality_strength"]
    )
    make_mlp = MLPS[told["mlp"]]
    # On the CPU even for a model on the meta device, whose tensors hold no numbers to list.
    rates = torch.linspace(0, told["drop_path_rate"], depth, device="cpu").tolist()
    blocks = Encoder()
    for make, rate in zip(make_attention, rates, strict=True):
        layer = make(dim=dim, **attn)
        blocks.append(
            Block(
                dim=dim,
                attn=layer,
                mlp=make_mlp(dim=dim, **mlp),
                drop_path=rate,
                norm=norm,
                init_values=told["init_values"],
            )
        )
    return blocks
