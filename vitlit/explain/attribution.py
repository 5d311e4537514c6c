"""What a ViT looks at: tensors in, tensors out; drawing is the business of figures.py.

images (B, C, H, W) -> attention maps (L, B, h, N, N) -> rollout, relevance (B, N, N)
                    -> maps on the patch grid (B, rows, cols) -> overlays (B, C, H, W)

A map's row is the token that looks, its column the token that is looked at. Of the N tokens the
first ``prefix`` (``ViT.num_prefix_tokens``: class token, registers) have no place in the image;
the others are the patches of ``grid`` (``ViT.grid_size``), row by row.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.attention import Attention
from vitlit.model.blocks import Block
from vitlit.model.vit import PoolName, ViT

Grid = tuple[int, int]  # patches down, across


class Attended(NamedTuple):
    """Attention maps ``(L, B, h, N, N)``, rows sum to 1, and logits ``(B, num_classes)``."""

    maps: Tensor
    logits: Tensor


def attentions(model: ViT) -> list[Attention]:
    """The attention layer of each block."""
    return [cast(Block, block).attn for block in model.blocks]


@contextmanager
def _inspecting(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and eagerly: hooks added to a compiled model would be skipped in silence."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _recording(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Inputs of the modules, complete and in their order once the context is left."""
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
    if missed := [i for i, module in enumerate(modules) if module not in inputs]:
        raise RuntimeError(f"the attention of block {missed[0]} was never called; no map of it")
    found += [inputs[module] for module in modules]


@torch.no_grad()
def attention_maps(model: ViT, x: Tensor, *, blocks: list[int] | None = None) -> Attended:
    """Attention matrices of the model for these inputs, and its logits, from one forward pass.

    x: images ``(B, C, H, W)`` or patches ``(B, N, C*P*P)``, normalised, on the model's device.
    blocks: which to keep, in this order, negative ones counted from the last; None keeps all.
    The maps are without dropout, and the model is left as it was found.
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
    maps = [layer.weights(tokens) for layer, tokens in zip(layers, inputs, strict=True)]
    return Attended(torch.stack(maps), logits)


Fusion = Literal["mean", "max", "min"]


def rollout(
    maps: Tensor, *, fusion: Fusion = "mean", discard: float = 0.0, prefix: int = 0
) -> Tensor:
    """Attention flow from each token to the input tokens (Abnar and Zuidema, 2020).

    maps: ``(L, B, h, N, N)`` of all blocks. Heads are fused, the residual connection is added as
    the identity, rows are scaled to sum to 1, and the blocks multiplied, the first one rightmost.
    discard: share of the attention to patches, the weakest of each image, that is set to 0 in
    each block; attention to the first ``prefix`` tokens, such as the class token, always stays.
    Returns ``(B, N, N)``; rows sum to 1.
    """
    if not 0 <= discard < 1:
        raise InputError(f"discard {discard} is not in [0, 1); 0 keeps all attention")
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    flow = identity.expand(maps.shape[1], -1, -1)
    for heads in maps:
        fused = _drop_weakest(_fuse(heads, fusion), discard, prefix)
        step = fused + identity
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
    weakest = patches.flatten(1).argsort(dim=1, stable=True)  # (B, N * (N - prefix))
    weakest = weakest[:, : int(share * weakest.shape[1])]
    kept = patches.flatten(1).scatter(1, weakest, 0).view_as(patches)
    return torch.cat([first, kept], dim=-1)


def relevance(model: ViT, x: Tensor, classes: Tensor) -> Tensor:
    """How much each input token speaks for a class (Chefer et al., 2021, eq. 5 and 6).

    The mean over the heads of the positive part of attention times gradient, dy/dA * A, is summed
    along the blocks: R = R + mean(...) R, beginning with the identity. dy/dA = (dy/dO) V^T needs
    no explicit attention, only the gradient of its output O, where ``attn.proj`` takes it.

    x: as in :func:`attention_maps`; classes: ``(B,)``, the class y to explain of each image.
    Returns ``(B, N, N)``, not negative. No gradient is left in the model.
    """
    layers = attentions(model)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        _inspecting(model),
        _recording([layer.proj for layer in layers]) as outputs,
        _recording(layers) as inputs,
    ):
        # gradients are wanted of the input, so that they flow where all weights are frozen too
        logits = model(x.detach().clone().requires_grad_())
        _check_class_indices(classes, logits)
        chosen = logits.gather(1, classes.clone()[:, None]).sum()
    with torch.inference_mode(False):
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
    """What each patch counts in the pooling ``seq``: ``(B, rows*cols)``, rows sum to 1.

    x: as in :func:`attention_maps`. None for a model of another pooling, where no input decides.
    """
    if model.seq_pool is None:
        return None
    with _inspecting(model), _recording([model.seq_pool]) as inputs:
        model(x)
    return model.seq_pool.shares(inputs[0])


def _check_patch_count(tokens: int, grid: Grid, prefix: int) -> None:
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
    """What the pooled tokens see of each patch, of one block's attention, a rollout or relevance.

    matrix: ``(..., N, N)``. pool: ``token`` takes the row of the class token; ``avg``, and models
    without prefix tokens, the mean over the patches' rows; ``seq`` their sum in the ``shares`` of
    :func:`pooled_shares`, ``(..., rows*cols)``. Returns ``(..., rows, cols)``.
    """
    _check_patch_count(matrix.shape[-1], grid, prefix)
    if (pool == "seq") != (shares is not None):
        raise InputError(f"pool {pool} and shares do not fit; give shares with seq, and only then")
    seen = matrix[..., prefix:]  # (..., N, rows * cols)
    if shares is not None:
        seen = (shares[..., None, :].to(seen) @ seen[..., prefix:, :]).squeeze(-2)
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

    maps: ``(L, B, h, N, N)``. Without a class token, see :func:`patch_map`. Returns
    ``(B, rows, cols)``, which sums to 1 less what goes to the prefix tokens.
    """
    return patch_map(maps[-1].mean(dim=1), grid=grid, prefix=prefix, pool=pool, shares=shares)


def overlay(images: Tensor, maps: Tensor) -> Tensor:
    """Images lit where the map is high: the map from 0 to 1, times the image, times 2, at most 1.

    images: ``(B, C, H, W)`` in [0, 1]; maps: ``(B, rows, cols)``, resized to the image
    (bilinear). A map that is the same everywhere leaves its image as it is.
    """
    light = F.interpolate(maps[:, None].to(images), images.shape[-2:], mode="bilinear")
    low, high = light.amin(dim=(2, 3), keepdim=True), light.amax(dim=(2, 3), keepdim=True)
    span = high - low
    is_flat = span <= 1e-5 * high.abs()  # what differs is rounding
    light = torch.where(is_flat, 0.5, (light - low) / span.where(~is_flat, 1.0))
    return (2 * light * images).clamp(0, 1)
