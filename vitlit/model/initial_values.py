"""Initial values of a ViT, as in the paper's published code.

ViT -> the same ViT, its parameters drawn anew
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from vitlit.model.local_attention import GatedPositionalAttention
from vitlit.model.patch_embed import PatchEmbed

if TYPE_CHECKING:
    from vitlit.model.vit import ViT

JOINED = {"qkv": 3, "kv": 2}  # layers that hold several matrices, one below the other


@torch.no_grad()
def init_weights(model: "ViT") -> None:
    """Initial values as in the paper's published code (google-research/vision_transformer).

    * every matrix: Xavier uniform, queries, keys and values as three separate matrices;
    * every bias and the class token: 0; the head: all 0, so the first loss is log(num_classes);
    * learned positions and registers: normal with standard deviation 0.02;
    * ``patch_embed=linear``: Xavier uniform on the flattened patch;
    * ``patch_embed=conv``: left as PyTorch initialises a Conv2d (Kaiming uniform, a = sqrt 5);
    * the layers of ``patch_embed=conv_stem``: Kaiming normal, as in CCT's code;
    * ``attention=gpsa``: as in ConViT, see ``GatedPositionalAttention.start_local``;
    * the scores of ``global_pool=seq``: normal with standard deviation 0.02, as in CCT's code;
    * the query of ``global_pool=map``: normal with standard deviation 1 / sqrt(D), as in timm.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # Xavier's bound depends on the shape: (3D, D) as one matrix would start smaller
            parts = JOINED.get(name.rpartition(".")[2], 1)
            for matrix in module.weight.chunk(parts):
                nn.init.xavier_uniform_(matrix)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for block in model.blocks:  # after the loop above, which gave their values Xavier's
        if isinstance(block.attn, GatedPositionalAttention):
            block.attn.start_local()
    if isinstance(model.patch_embed, PatchEmbed) and model.patch_embed.kind == "linear":
        nn.init.xavier_uniform_(model.patch_embed.proj.weight.flatten(1))
        if model.patch_embed.proj.bias is not None:
            nn.init.zeros_(model.patch_embed.proj.bias)
    if isinstance(model.pos_embed, nn.Parameter):
        nn.init.normal_(model.pos_embed, std=0.02)
    if model.reg_token is not None:  # equal registers would get equal gradients and stay equal
        nn.init.normal_(model.reg_token, std=0.02)
    if model.seq_pool is not None:
        nn.init.normal_(model.seq_pool.score.weight, std=0.02)
    if isinstance(model.head, nn.Linear):  # last: the loop above gave it Xavier's values
        nn.init.zeros_(model.head.weight)
    if model.attn_pool is not None:
        nn.init.normal_(model.attn_pool.latent, std=model.embed_dim**-0.5)
