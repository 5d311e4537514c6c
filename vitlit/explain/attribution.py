"""What a ViT looks at: tensors in, tensors out; ``figures`` draws them.

images (B, C, H, W) -> attention maps (L, B, h, N, N) -> rollout, relevance (B, N, N)
                    -> maps on the patch grid (B, rows, cols) -> overlays (B, 3, H, W)

A row of a map is the token that looks, a column the token that is looked at. Of the N tokens the
first ``prefix`` (``ViT.num_prefix_tokens``: class token, registers) have no place in the image;
the others are the patches of ``grid`` (``ViT.grid_size``), row by row.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.arguments import PoolName
from vitlit.model.attention import Attention
from vitlit.model.blocks import Block
from vitlit.model.encoder import uncompiled
from vitlit.model.vit import ViT
from vitlit.patches import Grid
from vitlit.plotting import coloured

FULL_COLOUR = 8  # times the mean of a map, from which on its overlay has its full colour


class Attended(NamedTuple):
    """Attention maps ``(L, B, h, N, N)``, rows sum to 1, and logits ``(B, num_classes)``."""

    maps: Tensor
    logits: Tensor


def attentions(model: ViT) -> list[Attention]:
    """The attention layer of each block."""
    return [cast(Block, block).attn for block in model.blocks]


@contextmanager
def _inspecting(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without compiled code, where new hooks would be skipped silently."""
    # of each module by itself: a frozen part may be in evaluation mode while the rest trains
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with uncompiled():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _recording(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Inputs of the modules, in their order; the list is filled when the context is left."""
    inputs: dict[nn.Module, Tensor] = {}
    found: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[module] = args[0]

    hooks = [module.register_forward_pre_hook(record) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
    # vit-explain returns an empty list, without an error, where fused attention skips its hooks
    if missed := [i for i, module in enumerate(modules) if module not in inputs]:
        raise RuntimeError(f"the attention of block {missed[0]} was never called; no map of it")
    found += [inputs[module] for module in modules]


@torch.no_grad()
def attention_maps(model: ViT, x: Tensor, *, blocks: list[int] | None = None) -> Attended:
    """Attention matrices of the model for these inputs, and its logits, from one forward pass.

    x: images ``(B, C, H, W)`` or patches ``(B, N, C*P*P)``, normalised, on the model's device.
    blocks: which to keep, in this order, negative ones counted from the last; None keeps all.
    The maps are without dropout, and the model is left as it was found. Raises InputError for a
    block that the model does not have.
    """
    layers = attentions(model)
    depth = len(layers)
    wanted = range(depth) if blocks is None else blocks
    if odd := [i for i in wanted if not -depth <= i < depth]:
        raise InputError(f"no block {odd[0]}; the model has blocks 0 to {depth - 1}")
    if not wanted:
        raise InputError("blocks [] leaves no attention map; name a block, or give None for all")
    layers = [layers[i] for i in wanted]
    with _inspecting(model), _recording(layers) as inputs:
        logits = model(x)
    # the forward pass is fused and forms no matrices: they are computed again from its inputs
    maps = [layer.weights(tokens) for layer, tokens in zip(layers, inputs, strict=True)]
    return Attended(torch.stack(maps), logits)


Fusion = Literal["mean", "max", "min"]


def rollout(
    maps: Tensor, *, fusion: Fusion = "mean", discard: float = 0.0, prefix: int = 0
) -> Tensor:
    """Attention flow from each token to the input tokens (Abnar and Zuidema, 2020).

    maps: ``(L, B, h, N, N)`` of all blocks. Heads are fused, the residual connection is added as
    the identity, rows are scaled to sum to 1, and the blocks are multiplied, the first rightmost.
    discard: fraction of the attention to patches, the weakest of each image, that is set to 0 in
    each block; attention to the first ``prefix`` tokens, such as the class token, is kept.
    Returns ``(B, N, N)``; rows sum to 1. Raises InputError if discard is not in [0, 1).
    """
    if not 0 <= discard < 1:
        raise InputError(f"discard {discard} is not in [0, 1); 0 keeps all attention")
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    flow = identity.expand(maps.shape[1], -1, -1)
    for heads in maps:
        fused = _drop_weakest(_fuse(heads, fusion), discard, prefix)
        step = fused + identity
        # by the sum, not by 2: fusion by max or min and discard change the sum of a row as well
        flow = step / step.sum(dim=-1, keepdim=True) @ flow
    return flow


def _fuse(heads: Tensor, fusion: Fusion) -> Tensor:
    """``(B, h, N, N)`` -> ``(B, N, N)``."""
    match fusion:
        case "mean":
            return heads.mean(dim=1)
        case "max":
            return heads.amax(dim=1)
        case "min":
            return heads.amin(dim=1)
    raise InputError(f"unknown fusion {fusion!r}; known: mean, max, min")


def _drop_weakest(fused: Tensor, share: float, prefix: int) -> Tensor:
    """Zero the weakest ``share`` of each ``(N, N - prefix)`` part; the first columns stay."""
    first, patches = fused[..., :prefix], fused[..., prefix:]
    # in each image by itself; vit-explain discards in the first image of a batch alone
    weakest = patches.flatten(1).argsort(dim=1, stable=True)  # (B, N * (N - prefix))
    weakest = weakest[:, : int(share * weakest.shape[1])]
    kept = patches.flatten(1).scatter(1, weakest, 0).view_as(patches)
    return torch.cat([first, kept], dim=-1)


def relevance(model: ViT, x: Tensor, classes: Tensor) -> Tensor:
    """How much each input token supports a class (Chefer et al., 2021, eq. 5 and 6).

    The positive part of attention times gradient, dy/dA * A, is averaged over the heads and
    accumulated along the blocks: R = R + mean(...) R, starting from the identity. dy/dA = (dy/dO)
    V^T needs no explicit attention in the forward pass, only the gradient of its output O, which
    is the input of ``attn.mixed_values_reader``.

    x: as in :func:`attention_maps`; classes: ``(B,)``, the class y to explain of each image.
    Returns ``(B, N, N)``, not negative. No gradient is left in the model. Raises InputError for a
    class that the model does not have.
    """
    layers = attentions(model)
    with (
        torch.inference_mode(False),  # the caller may be in it, and nothing could be differentiated
        torch.enable_grad(),
        _inspecting(model),
        _recording([layer.mixed_values_reader for layer in layers]) as outputs,
        _recording(layers) as inputs,
    ):
        # a gradient of the input is asked for, so that there is a graph if all weights are frozen;
        # clones, because tensors made in inference mode may not take part in one
        logits = model(x.detach().clone().requires_grad_())
        _check_class_indices(classes, logits)
        # the sum: no image depends on another, so one backward pass gives the gradients of all
        chosen = logits.gather(1, classes.clone()[:, None]).sum()
    with torch.inference_mode(False):
        # grad, not backward, which would add to the gradients of the model's parameters
        gradients = torch.autograd.grad(chosen, outputs)  # each (B, N, D)
    with torch.no_grad():
        tokens = inputs[0].shape[1]
        total = torch.eye(tokens, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        for layer, entered, gradient in zip(layers, inputs, gradients, strict=True):
            values = layer.project(entered)[2]  # (B, h, N, D/h)
            by_head = torch.unflatten(gradient, 2, (layer.num_heads, -1)).transpose(1, 2)
            by_weight = by_head @ values.transpose(-2, -1)  # (B, h, N, N)
            share = (by_weight * layer.weights(entered)).clamp(min=0).mean(dim=1)
            total = total + share @ total
    return total


def _check_class_indices(classes: Tensor, logits: Tensor) -> None:
    if classes.shape != logits.shape[:1]:
        raise InputError(f"classes {tuple(classes.shape)} for {len(logits)} images; give one each")
    if classes.min() < 0 or classes.max() >= logits.shape[1]:
        raise InputError(f"classes {classes.tolist()} are not all in 0 to {logits.shape[1] - 1}")


@torch.no_grad()
def pooled_shares(model: ViT, x: Tensor) -> Tensor | None:
    """The weight of each token in the poolings ``seq`` and ``map``: ``(B, N)``, rows sum to 1.

    Prefix tokens that take no part have 0; of ``map`` it is the mean over its heads. x: as in
    :func:`attention_maps`. None for other poolings, whose weights are fixed.
    """
    pool = model.seq_pool or model.attn_pool
    if pool is None:
        return None
    with _inspecting(model), _recording([pool]) as inputs:
        model(x)
    shares = pool.shares(inputs[0])
    missing = model.num_prefix_tokens if len(shares[0]) == math.prod(model.grid_size) else 0
    return F.pad(shares, (missing, 0))


def check_patch_count(tokens: int, grid: Grid, prefix: int) -> None:
    """Refuse a number of tokens that is not that of the prefix and the grid."""
    if tokens != prefix + grid[0] * grid[1]:
        raise InputError(
            f"{tokens} tokens are not {prefix} and a grid of {grid[0]}x{grid[1]} patches; "
            f"pass grid=model.grid_size, prefix=model.num_prefix_tokens"
        )


def patch_map(
    matrix: Tensor,
    *,
    grid: Grid,
    prefix: int,
    pool: PoolName = "token",
    shares: Tensor | None = None,
) -> Tensor:
    """How much the pooled output sees of each patch, by attention, rollout or relevance.

    matrix: ``(..., N, N)``. pool: ``token`` takes the row of the class token; ``avg``, and models
    without prefix tokens, the mean over the patches' rows; ``seq`` and ``map`` the mean of all rows
    weighted by ``shares``, ``(..., N)`` from :func:`pooled_shares`. Returns ``(..., rows, cols)``.
    """
    check_patch_count(matrix.shape[-1], grid, prefix)
    if (pool in ("seq", "map")) != (shares is not None):
        raise InputError(
            f"pool {pool} and shares do not fit; give shares with seq and map, and only then"
        )
    seen = matrix[..., prefix:]  # (..., N, rows * cols)
    if shares is not None:
        seen = (shares[..., None, :].to(seen) @ seen).squeeze(-2)
    else:
        is_token = prefix and pool == "token"
        seen = seen[..., 0, :] if is_token else seen[..., prefix:, :].mean(dim=-2)
    return torch.unflatten(seen, -1, grid)


def cls_map(
    maps: Tensor,
    *,
    grid: Grid,
    prefix: int,
    pool: PoolName = "token",
    shares: Tensor | None = None,
) -> Tensor:
    """Attention of the class token to the patches in the last block, mean over heads.

    maps: ``(L, B, h, N, N)``. :func:`patch_map` says what stands in for a class token. Returns
    ``(B, rows, cols)``, which sums to 1 minus the attention to prefix tokens.
    """
    return patch_map(maps[-1].mean(dim=1), grid=grid, prefix=prefix, pool=pool, shares=shares)


def overlay(images: Tensor, maps: Tensor) -> Tensor:
    """Images in soft grey, coloured where the map is above its mean: ``(B, 3, H, W)`` in [0, 1].

    images: ``(B, C, H, W)`` in [0, 1]; maps: ``(B, rows, cols)``, not negative, resized to the
    image (bilinear). The strength is absolute: none at the mean of the map and below, full at
    FULL_COLOUR times the mean, by the logarithm in between. So a flat map has no colour at all, and
    two maps of equal colour are equally far from flat.
    """
    means = maps.mean(dim=(1, 2), keepdim=True)
    # a map may be all zeros, as relevance is if nothing supports the class
    times = maps / means.clamp(min=torch.finfo(maps.dtype).tiny)
    strength = times.clamp(min=1).log().div(math.log(FULL_COLOUR)).clamp(max=1)
    return coloured(images, strength)
