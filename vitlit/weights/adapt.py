"""Adapts weights to a model of another image size, patch size, channels, pooling or classes.

state of one ViT -> state of another; positions (1, prefix+N, D), patch filters (D, C, P, P)
"""

import math
import re
from typing import NamedTuple

import torch
from torch import Tensor

from vitlit.errors import InputError, first_few
from vitlit.messages import counted
from vitlit.model.low_rank import without_adapters
from vitlit.model.patch_embed import PatchEmbed
from vitlit.model.vit import ViT, config_of
from vitlit.patches import Grid, grid_size
from vitlit.weights.notes import untold_names
from vitlit.weights.pretrained import Weights
from vitlit.weights.reshaping import (
    RELATIVE_ENDING,
    adapt_input_channels,
    resample_filters,
    resample_positions,
    resized_relative,
)

EXTRA_PARTS = {  # parameters of some kinds of attention and pooling: what they are, name's ending
    "temperatures of lsa": ".attn.sharpness",
    "gates of gpsa": ".attn.gate",
    "localities of gpsa": ".attn.locality",
    "relative positions": RELATIVE_ENDING,
    "scores of the pooling": "seq_pool.score.weight",
}
# whole parts that a model has or has not, by the start of their parameters' names
OPTIONAL_PARTS = {"attention pooling": "attn_pool.", "norm before the blocks": "norm_pre."}
# arguments that decide the shapes of the blocks, which nothing here can resize
SHAPING = (
    "embed_dim", "depth", "mlp_ratio", "qkv_bias", "init_values", "mlp", "norm", "qk_norm",
    "sub_norm", "embed_norm",
)  # fmt: skip
# settings in which models can differ although their parameters have the same names and shapes
TOLD_BY_NO_SHAPE = (
    "num_heads", "norm_eps", "act", "attention", "rope", "rope_base", "rope_grid", "rope_offset",
)  # fmt: skip
HEAD_KEYS = ("head.weight", "head.bias")
PREFIX_TOKENS = ("cls_token", "reg_token")  # in the order of their rows in the positions


class Adapted(NamedTuple):
    """A state that loads strictly into the model it was made for, and notes on each change."""

    state: dict[str, Tensor]
    notes: list[str]


def adapt_weights(weights: Weights, model: ViT, class_names: list[str] | None = None) -> Adapted:
    """The weights as a state for ``model``, which must agree in width, depth and MLP.

    class_names: those of the model; without them a head of as many classes is kept.
    Positions, patch filters and input channels are resized. A head of other classes is replaced
    by zeros; the rows of a head of the same classes are put into the model's order. Parts that
    the weights lack (a class token, registers, positions) keep the model's own values, and parts
    that the model lacks are dropped; this includes the extra parameters of attention lsa and gpsa
    and of the pooling seq. Fixed positions (sincos1d, sincos2d) are the model's own. The notes
    tell every change, and why a head is kept. Raises InputError if other shapes differ.
    """
    _check_embedding(weights, model)
    notes: list[str] = []
    own = without_adapters(model.state_dict())
    state = dict(weights.state)  # a copy: the caller's weights stay as they are
    _adapt_filters(state, model, notes)
    # before the prefix tokens, by which positions are split
    _adapt_positions(state, weights, model, notes)
    _adapt_prefix(state, own, notes)
    _adapt_norm(state, own, notes)
    _adapt_head(state, own, (weights.class_names, class_names), notes)
    _adapt_relative(state, weights, model, notes)
    _adapt_extras(state, own, notes)
    _adapt_parts(state, own, notes)
    _note_differences(weights, model, notes)
    wrong = [
        name
        for name in {**own, **state}
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]
    if wrong:
        raise InputError(
            f"the weights do not fit the model at {first_few(wrong)}; leave out "
            f"{', '.join(SHAPING)}, or give those of the weights",
            argument=SHAPING,
        )
    return Adapted({name: state[name] for name in own}, notes)  # in the model's order


def _check_embedding(weights: Weights, model: ViT) -> None:
    """Refuse another patch embedding: the blocks could not read its tokens."""
    told, new = weights.arguments, model.config["patch_embed"]
    old = told.get("patch_embed", "conv")
    # linear and conv are two ways to compute the same filters
    if old != new and {old, new} != {"linear", "conv"}:
        raise InputError(
            f"patch_embed {new} cannot start from weights with {old}; leave it out",
            argument="patch_embed",
        )
    if isinstance(model.patch_embed, PatchEmbed):  # _adapt_filters resizes it
        return
    usual = model.config | {"stem_convs": 1, "stem_norm": "group"}  # before these arguments
    for name in ("patch_size", "in_chans", "stem_convs", "stem_norm"):
        value, had = model.config[name], told.get(name, usual[name])
        if had != value:
            raise InputError(
                f"{name} {value} contradicts the weights, which have {had}; the filters of "
                f"patch_embed {new} are not resized: give {had}",
                argument=name,
            )


def _adapt_filters(state: dict[str, Tensor], model: ViT, notes: list[str]) -> None:
    """Resize the patch filters to the model's patch size and input channels."""
    if not isinstance(model.patch_embed, PatchEmbed):
        return
    filters = state["patch_embed.proj.weight"]
    channels, patch = filters.shape[1], filters.shape[-1]  # those of the weights, for the notes
    new = model.config["patch_size"]
    filters = resample_filters(adapt_input_channels(filters, model.in_chans), new)
    state["patch_embed.proj.weight"] = filters
    if channels != model.in_chans:
        notes.append(f"patch filters made for {model.in_chans} channels instead of {channels}")
    if patch != new:
        notes.append(f"patch filters resized from {patch}x{patch} to {new}x{new} pixels")


def _adapt_positions(
    state: dict[str, Tensor], weights: Weights, model: ViT, notes: list[str]
) -> None:
    """Resize the positions of patches, and give each prefix token of the model a position."""
    table = state.pop("pos_embed", None)
    if model.pos_embed is None:
        if table is not None:
            rotary = "rotary ones" if model.config["rope"] != "none" else "none"
            notes.append(f"positions dropped; the model has {rotary}")
        return
    own = model.pos_embed.detach()
    if not isinstance(model.pos_embed, torch.nn.Parameter):
        state["pos_embed"] = own.clone()
        if table is None or not _agree(table, own):
            notes.append("positions not loaded: the model's are a fixed table")
        return
    if table is None:
        state["pos_embed"] = own.clone()
        notes.append("positions not loaded: the model's are new; the weights have none")
        return
    old_grid = grid_size(weights.arguments["img_size"], weights.arguments["patch_size"])
    counts = {name: state[name].shape[1] if name in state else 0 for name in PREFIX_TOKENS}
    *prefix_rows, patches = torch.split(table, [*counts.values(), math.prod(old_grid)], dim=1)
    parts = []
    for name, rows in zip(PREFIX_TOKENS, prefix_rows, strict=True):
        token = getattr(model, name)
        wanted = 0 if token is None else token.shape[1]
        # other tokens than the weights' are new: their position adds nothing at first
        parts.append(rows if rows.shape[1] == wanted else table.new_zeros(1, wanted, own.shape[2]))
    parts.append(resample_positions(patches, old_grid, model.grid_size))
    state["pos_embed"] = torch.cat(parts, dim=1)
    if old_grid != model.grid_size:
        notes.append(f"positions {_resized(old_grid, model.grid_size)}")


def _agree(old: Tensor, new: Tensor) -> bool:
    """Whether tables are equal but for rounding; on the meta device nothing is known of it."""
    known = old.shape == new.shape and not new.is_meta
    return known and torch.allclose(old.float(), new, atol=0.01)


def _adapt_relative(
    state: dict[str, Tensor], weights: Weights, model: ViT, notes: list[str]
) -> None:
    """Resize the tables of relative positions to the model's grid."""
    old = grid_size(weights.arguments["img_size"], weights.arguments["patch_size"])
    tables = resized_relative(state, old, model.grid_size)
    if tables and model.config["attention"] == "relative":
        state |= tables
        notes.append(f"relative positions {_resized(old, model.grid_size)}")


def _resized(old: Grid, new: Grid) -> str:
    return f"resized from {old[0]}x{old[1]} to {new[0]}x{new[1]} patches"


def _adapt_prefix(state: dict[str, Tensor], own: dict[str, Tensor], notes: list[str]) -> None:
    """Drop prefix tokens that the model lacks; take the model's own where the weights have none."""
    for name in PREFIX_TOKENS:
        has, wants = name in state, name in own
        if has and not (wants and state[name].shape == own[name].shape):
            notes.append(f"{name} dropped; the model has {'another number' if wants else 'none'}")
            del state[name]
        if wants and name not in state:
            notes.append(f"{name} is new")
            state[name] = own[name].clone()


def _adapt_norm(state: dict[str, Tensor], own: dict[str, Tensor], notes: list[str]) -> None:
    """Rename the last norm: timm calls it norm before the pooling and fc_norm after it."""
    old, new = ("norm", "fc_norm") if "fc_norm.weight" in own else ("fc_norm", "norm")
    if f"{new}.weight" not in own:
        dropped = [name for name in state if re.match(r"(fc_)?norm\.", name)]
        for name in dropped:
            del state[name]
        if dropped:
            notes.append("the final norm dropped; the model has none")
        return
    if f"{new}.weight" not in state and f"{old}.weight" not in state:
        state |= {name: own[name].clone() for name in own if name.startswith(f"{new}.")}
        notes.append("the final norm is new")
        return
    if f"{old}.weight" not in state:
        return
    for name in [name for name in state if name.startswith(f"{old}.")]:
        state[name.replace(old, new, 1)] = state.pop(name)
    notes.append(f"the final norm moved {'behind' if new == 'fc_norm' else 'before'} the pooling")


def _adapt_head(
    state: dict[str, Tensor],
    own: dict[str, Tensor],
    names: tuple[list[str] | None, list[str] | None],
    notes: list[str],
) -> None:
    """names: class names of the weights and of the model, None where they are not known."""
    head = state.get("head.weight")
    if "head.weight" not in own:
        if head is not None:
            del state["head.weight"], state["head.bias"]
            notes.append("head dropped; the model has none")
        return
    classes, (old, new) = own["head.weight"].shape[0], names
    if head is not None and head.shape[0] == classes and _is_same(old, new):
        if old is not None and new is not None:
            rows = [old.index(name) for name in new]  # the head's row for each class of the model
            is_moved = rows != sorted(rows)
            how = ", its rows put into the order of the data" if is_moved else ""
            same = counted(classes, "class").removeprefix("1 ")
            notes.append(f"head kept for the same {same}{how}")
            state |= {name: state[name][rows] for name in HEAD_KEYS if is_moved}
        elif new is not None:
            notes.append(f"head kept; {untold_names(new)}")
        return
    # Dosovitskiy et al., 2021, section 3.2: fine-tuning starts from a head of zeros
    state |= {name: torch.zeros_like(own[name]) for name in HEAD_KEYS}
    had = "the weights have none"
    if head is not None:
        had = f"dropped the weights' head of {counted(head.shape[0], 'class')}{_quoted_names(old)}"
    notes.append(f"head set to zeros for {counted(classes, 'class')}{_quoted_names(new)}; {had}")


def _is_same(old: list[str] | None, new: list[str] | None) -> bool:
    """Whether the classes can be the same: if both names are known they decide, in any order."""
    return old is None or new is None or sorted(old) == sorted(new)


def _quoted_names(names: list[str] | None) -> str:
    return f" ({first_few(names)})" if names else ""


def _adapt_extras(state: dict[str, Tensor], own: dict[str, Tensor], notes: list[str]) -> None:
    """Drop or add the parameters that only some kinds of attention and pooling have."""
    for kind, ending in EXTRA_PARTS.items():
        shapes = {name: value.shape for name, value in own.items() if name.endswith(ending)}
        has = [name for name in state if name.endswith(ending)]
        drops = [name for name in has if state[name].shape != shapes.get(name)]  # None: not wanted
        for name in drops:
            del state[name]
        wants = shapes.keys() - state.keys()
        state |= {name: own[name].clone() for name in wants}
        if drops:
            notes.append(f"{kind} dropped; the model has {'another number' if shapes else 'none'}")
        if wants:
            notes.append(f"{kind} are new")


def _adapt_parts(state: dict[str, Tensor], own: dict[str, Tensor], notes: list[str]) -> None:
    """Drop or add whole parts that the model or the weights lack."""
    for part, start in OPTIONAL_PARTS.items():
        has, wants = ({n for n in names if n.startswith(start)} for names in (state, own))
        if has == wants:
            continue
        for name in has - wants:
            del state[name]
        state |= {name: own[name].clone() for name in wants - has}
        notes.append(f"{part} {'is new' if wants else 'dropped; the model has none'}")


def _note_differences(weights: Weights, model: ViT, notes: list[str]) -> None:
    """Tell settings in which the model differs from the weights and that no shape shows."""
    had = config_of(weights.arguments)
    for name in TOLD_BY_NO_SHAPE:
        told, value = had[name], model.config[name]
        if told != value:
            notes.append(f"the model has {name} {value}; the weights had {told}")
