"""What a ViT costs: parameters, and the arithmetic of a forward pass of one image.

ViT -> Cost of its embedding, its blocks and its head
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from vitlit.model.patch_embed import ConvStem
from vitlit.model.pooling import AttentionPool
from vitlit.model.vit import ViT


class Cost(NamedTuple):
    """parameters: their number; flops: of an image, two for each multiplication and addition."""

    parameters: int
    flops: int


def token_count(vit: ViT) -> int:
    """Tokens of an image in the blocks: patches, and the prefix tokens."""
    return math.prod(vit.grid_size) + vit.num_prefix_tokens


def cost_by_part(vit: ViT) -> dict[str, Cost]:
    """The cost of ``embedding``, ``blocks`` and ``head``, which is all the rest.

    Only matrix products and convolutions are counted, as is usual: normalisation, softmax and
    activations are below a hundredth.
    """
    patches, tokens = math.prod(vit.grid_size), token_count(vit)
    if isinstance(vit.patch_embed, ConvStem):
        embedding = _stem_flops(vit.patch_embed, vit.img_size)
    else:
        embedding = patches * _matrix_flops(vit.patch_embed)
    # q k^T and its product with v: D multiplications each for a pair of tokens
    attention = len(vit.blocks) * 4 * tokens**2 * vit.embed_dim
    blocks = tokens * _matrix_flops(vit.blocks) + attention
    head = _matrix_flops(vit.head)
    if vit.seq_pool is not None:  # scores, and the mean with them
        head += patches * (_matrix_flops(vit.seq_pool) + 2 * vit.embed_dim)
    if vit.attn_pool is not None:
        pooled = tokens if vit.config["pool_include_prefix"] else patches
        head += _attention_pool_flops(vit.attn_pool, pooled, vit.embed_dim)
    parameters = {"blocks": _count(vit.blocks.parameters())}
    before = (vit.patch_embed.parameters(), [vit.cls_token, vit.reg_token, vit.pos_embed])
    parameters["embedding"] = sum(map(_count, before))
    parameters["head"] = _count(vit.parameters()) - sum(parameters.values())
    flops = {"embedding": embedding, "blocks": blocks, "head": head}
    return {name: Cost(parameters[name], flops[name]) for name in flops}


def _count(tensors: Iterable[object]) -> int:
    """Numbers in the parameters among these; a fixed table of positions is none."""
    return sum(one.numel() for one in tensors if isinstance(one, nn.Parameter))


def _matrix_flops(part: nn.Module) -> int:
    """Of the matrices of a part for one token; a convolution is one for each patch."""
    kinds = (nn.Linear, nn.Conv2d)
    return sum(2 * one.weight.numel() for one in part.modules() if isinstance(one, kinds))


def _attention_pool_flops(pool: AttentionPool, tokens: int, dim: int) -> int:
    """Keys and values of all tokens; one query attends to them and passes through the MLP."""
    once = sum(map(_matrix_flops, (pool.q, pool.proj, pool.mlp)))
    return tokens * (_matrix_flops(pool.kv) + 4 * dim) + once


def _stem_flops(stem: ConvStem, size: tuple[int, int]) -> int:
    """Of convolutions that see every pixel; each stage of them at half the size of the last."""
    stages = [layer // stem.stem_convs for layer in range(len(stem.convs))]
    pixels = [math.prod(size) // 4**stage for stage in stages]
    return sum(count * _matrix_flops(conv) for count, conv in zip(pixels, stem.convs, strict=True))
