"""Initial values of a ViT, as in the paper's published code.

ViT -> the same ViT, its parameters drawn anew
"""

import torch
from torch import nn

from vitlit.model.local_attention import GatedPositionalAttention
from vitlit.model.patch_embed import PatchEmbed
from vitlit.model.pooling import AttentionPool, SequencePool

JOINED = {"qkv": 3, "kv": 2}  # layers that hold several matrices, one below the other


@torch.no_grad()
def init_matrices(model: nn.Module) -> None:
    """Xavier uniform for every matrix, 0 for every bias; nothing else is changed."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # Xavier's bound depends on the shape: (3D, D) as one matrix would start smaller
            parts = JOINED.get(name.rpartition(".")[2], 1)
            for matrix in module.weight.chunk(parts):
                nn.init.xavier_uniform_(matrix)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def init_weights(model: nn.Module) -> None:
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

    A model on the meta device has no values, and stays as it is.
    """
    if next(model.parameters()).is_meta:  # to draw normal values there, torch imports its compiler
        return
    init_matrices(model)
    for module in model.modules():  # after init_matrices, which gave their values Xavier's
        if isinstance(module, GatedPositionalAttention):
            module.start_local()
        if isinstance(module, PatchEmbed) and module.kind == "linear":
            nn.init.xavier_uniform_(module.proj.weight.flatten(1))
            if module.proj.bias is not None:
                nn.init.zeros_(module.proj.bias)
    tables = dict(model.named_parameters(recurse=False))
    for name in ("pos_embed", "reg_token"):  # equal registers would get equal gradients
        if name in tables:
            nn.init.normal_(tables[name], std=0.02)
    for module in model.modules():
        if isinstance(module, SequencePool):
            nn.init.normal_(module.score.weight, std=0.02)
        if isinstance(module, AttentionPool):
            nn.init.normal_(module.latent, std=module.latent.shape[-1] ** -0.5)
    head = dict(model.named_children())["head"]
    if isinstance(head, nn.Linear):  # last: the loop above gave it Xavier's values
        nn.init.zeros_(head.weight)
