"""Rearranges weights that other programs keep in other pieces or another order, and resizes them.

{timm's name: tensor}, in the pieces of the source -> {timm's name: tensor}, as ViT has them;
positions (1, rows*cols, D), patch filters (D, C, P, P) -> the same for another grid or patch size
"""

import math
import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.patches import Grid

Tensors = dict[str, Tensor]
# Layers of a block whose bias some programs leave out; a bias of zeros computes the same.
BIASED_LAYERS = ("attn.proj", "mlp.fc1", "mlp.fc2")

RELATIVE_ENDING = ".attn.relative_position_bias_table"  # of BEiT, in each block


class Rotary(NamedTuple):
    """How a program lays out the pairs that rotary positions turn.

    halves: number j of a head is paired with number j + d/2, in place of neighbours; columns_first:
    the first half of the pairs turns with the column, in place of the row.
    """

    halves: bool = False
    columns_first: bool = False


def joined(state: Tensors) -> Tensors:
    """The state with one tensor for each of ViT's: pieces joined, missing biases filled in."""
    state = dict(state)
    _give_axes(state)
    _mask_key_biases(state)
    for name in [name for name in state if re.search(r"\.attn\.q\.weight$", name)]:
        _join(state, [name.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"], "qkv")
    for name in [name for name in state if name.endswith(".attn.qkv.weight")]:
        _join_biases(state, name.removesuffix("qkv.weight"), len(state[name]) // 3)
    for name in [name for name in state if re.search(r"\.mlp\.gate\.(weight|bias)$", name)]:
        _join(state, [name, name.replace(".gate.", ".up.")], "fc1")
    state = {name.replace(".mlp.up.", ".mlp.fc1."): value for name, value in state.items()}
    _split_pool(state)
    _fill_biases(state)
    return state


def _give_axes(state: Tensors) -> None:
    """Class token and positions as ``(1, N, D)``, from ``(D)`` and ``(N, D)``."""
    for name in ("cls_token", "pos_embed"):
        if name in state and state[name].ndim in (1, 2) and state[name].numel():
            state[name] = state[name].reshape(1, -1, state[name].shape[-1])


def _mask_key_biases(state: Tensors) -> None:
    """Zero what DINOv3's own code masks: the biases of the keys."""
    for name in [name for name in state if name.endswith(".attn.qkv.bias_mask")]:
        del state[name]
        bias = state.get(name.removesuffix("_mask"))
        if bias is not None and bias.ndim == 1:
            third = len(bias) // 3
            state[name.removesuffix("_mask")] = torch.cat(
                [bias[:third], torch.zeros_like(bias[:third]), bias[2 * third :]]
            )


def _join(state: Tensors, parts: list[str], layer: str) -> None:
    """Put the parts, of one shape, below each other as ``layer``, in place."""
    shapes = {state[part].shape if part in state else None for part in parts}
    # other shapes are another architecture's, and are refused later by these names
    if None not in shapes and len(shapes) == 1 and state[parts[0]].ndim:
        end = parts[0].rpartition(".")[2]
        owner = parts[0].rpartition(".")[0].rpartition(".")[0]
        state[f"{owner}.{layer}.{end}"] = torch.cat([state.pop(part) for part in parts])


def _join_biases(state: Tensors, owner: str, width: int) -> None:
    """One bias of queries, keys and values; those that are missing beside others are zeros."""
    names = [f"{owner}{letter}.bias" for letter in "qkv"]
    found = [state[name] for name in names if name in state]
    if not found or any(bias.shape != (width,) for bias in found):
        return
    zeros = torch.zeros_like(found[0])
    state[f"{owner}qkv.bias"] = torch.cat([state.pop(name, zeros) for name in names])


def _split_pool(state: Tensors) -> None:
    """The query's projection apart from that of keys and values, as timm has them."""
    for end in ("weight", "bias"):
        value = state.get(f"attn_pool.qkv.{end}")
        if value is not None and value.ndim and len(value) % 3 == 0:
            third = len(value) // 3
            del state[f"attn_pool.qkv.{end}"]
            # cloned: tensors that share memory cannot be saved as safetensors
            state[f"attn_pool.q.{end}"] = value[:third].clone()
            state[f"attn_pool.kv.{end}"] = value[third:].clone()


def _fill_biases(state: Tensors) -> None:
    """Biases of zeros where a program has none in any block, or none before its first norm."""
    filters = "patch_embed.proj.weight"
    if "norm_pre.weight" in state and filters in state:
        # CLIP's: the norm behind would remove its mean
        state.setdefault("patch_embed.proj.bias", state[filters].new_zeros(len(state[filters])))
    for layer in BIASED_LAYERS:
        if any(name.endswith(f".{layer}.bias") for name in state if name.startswith("blocks.")):
            continue
        for name in [name for name in state if name.endswith(f".{layer}.weight")]:
            if name.startswith("blocks.") and state[name].ndim == 2:
                bias = state[name].new_zeros(len(state[name]))
                state[name.replace(".weight", ".bias")] = bias


def rearrange_rotary(state: Tensors, num_heads: int, rotary: Rotary, *, back: bool = False) -> None:
    """Reorder the numbers of each head's queries and keys as ViT pairs them, in place.

    q k^T does not change if the numbers of q and k are permuted alike. back: from ViT's order to
    that of ``rotary``.
    """
    for name in [name for name in state if re.search(r"\.attn\.(qkv\.|[qk]_norm\.)", name)]:
        value = state[name]
        parts = 3 if ".qkv." in name else 1
        width = len(value) // parts if parts == 1 else len(value) // parts // num_heads
        order = _pair_order(width, rotary).to(value.device)
        order = order.argsort() if back else order
        if parts == 1:  # a norm over the width of a head
            state[name] = value[order]
            continue
        heads = value.reshape(3, num_heads, width, *value.shape[1:])
        turned = heads[:2, :, order]
        state[name] = torch.cat([turned, heads[2:]]).reshape(value.shape)


def _pair_order(width: int, rotary: Rotary) -> Tensor:
    """Where each number of a head, ``width`` wide, comes from: ``(width,)``."""
    order = torch.arange(width)
    if rotary.halves:  # (j, j + d/2) side by side
        order = order.view(2, -1).T.flatten()
    if rotary.columns_first:  # pairs of rows first
        order = order.view(2, -1).flip(0).flatten()
    return order


def resample_positions(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Positions of patches ``(1, rows*cols, D)`` for another grid, by bicubic interpolation.

    Interpolated in float32 and returned in the table's type.
    """
    if old == new:  # bit for bit, since interpolation rounds
        return table
    # float32: in half precision the sums of the filter would lose about three digits
    x = table.float().reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, D, rows, cols)
    # antialiased as in timm: without it a smaller grid would take single positions, not averages
    x = F.interpolate(x, size=new, mode="bicubic", antialias=True)
    return x.flatten(2).transpose(1, 2).to(table.dtype)


def resample_relative(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Relative positions ``((2 rows - 1)(2 cols - 1) + 3, h)`` for another grid, bicubic.

    The offset 0 stays in the middle; the three rows of the prefix tokens stay as they are.
    """
    sizes = [(2 * rows - 1, 2 * cols - 1) for rows, cols in (old, new)]
    offsets = resample_positions(table[None, :-3], sizes[0], sizes[1])[0]
    return torch.cat([offsets, table[-3:]])


def resized_relative(state: Tensors, old: Grid, new: Grid) -> Tensors:
    """The tables of relative positions for another grid; empty if the grid is the same."""
    tables = {name: value for name, value in state.items() if name.endswith(RELATIVE_ENDING)}
    resized = {name: resample_relative(value, old, new) for name, value in tables.items()}
    return {} if old == new else resized


def resample_filters(filters: Tensor, patch_size: int) -> Tensor:
    """Patch filters ``(D, C, P, P)`` for patches of ``patch_size`` pixels (FlexiViT).

    Beyer et al., 2023, section 3.4: B is the matrix that resizes a patch. The pseudo-inverse of
    B^T maps the filters so that an enlarged patch gives the same token as the original patch.
    """
    old = filters.shape[-1]
    if old == patch_size:
        return filters
    # resizing is linear: resized patches with one lit pixel each are the rows of B^T
    basis = torch.eye(old * old).view(-1, 1, old, old)
    size = (patch_size, patch_size)
    resized = F.interpolate(basis, size=size, mode="bicubic", antialias=True)
    inverse = torch.linalg.pinv(resized.flatten(1))  # of B^T, (P*P, p*p), p: the old patch size
    result = filters.flatten(2).float() @ inverse.T  # (D, C, P*P)
    return result.reshape(*filters.shape[:2], *size).to(filters.dtype)


def adapt_input_channels(filters: Tensor, in_chans: int) -> Tensor:
    """Patch filters ``(D, C, P, P)`` for images of ``in_chans`` channels.

    One channel gets the sum of the filters, which gives the tokens of a grey image repeated C
    times. Several channels repeat the filters in turn, scaled so that the size of the tokens
    stays; timm does the same.
    """
    channels = filters.shape[1]
    if channels == in_chans:
        return filters
    if in_chans == 1:
        return filters.sum(dim=1, keepdim=True)
    repeated = filters.repeat(1, math.ceil(in_chans / channels), 1, 1)
    return repeated[:, :in_chans] * (channels / in_chans)
