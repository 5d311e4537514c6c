"""Translates parameter names of published formats to timm's names, which this package uses.

{name: tensor} of timm, Hugging Face, torchvision, open_clip or Google -> {timm's name: tensor}

The tables are in :mod:`.weight_formats`. A name that no table knows is left as it is and refused
later.
"""

import math
import re
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.errors import InputError, first_few
from vitlit.weights.reshaping import Rotary, joined
from vitlit.weights.weight_formats import (
    CLIP_MEAN,
    CLIP_STD,
    DROPPED_PARTS,
    FILTERS_KEY,
    GOOGLE_RULES,
    HALF,
    HUGGING_FACE_PAIR_RULES,
    OPEN_CLIP_RULES,
    TEXT_PARTS,
    TIMM_RULES,
    WEIGHT_FORMATS,
    Rules,
    WeightFormat,
)

# parts that among timm's models only EVA-02's have beside a table of positions, in the names of
# TIMM_RULES: they have rotary positions too, which no name shows
EVA02_NAMES = re.compile(r"\.attn\.q\.weight$")
LEARNT_FREQUENCIES = "learns the frequencies of its rotary positions"
EVA02, PERCEPTION_ENCODER = "an EVA-02", "a Perception Encoder"


class Translated(NamedTuple):
    """Weights under timm's names, their format, and notes.

    told: the arguments of ViT that names and shapes tell beside those of every ViT, such as the
    heads of Google's files; rotary: the layout of rotary positions, None if no name tells it;
    untold_rope: the family whose names these are, if it has rotary positions that no name shows.
    """

    state: dict[str, Tensor]
    format: WeightFormat
    told: dict[str, Any]
    rotary: Rotary | None
    notes: list[str]
    untold_rope: str | None = None


def translate_keys(tensors: dict[str, Tensor], source: str) -> Translated:
    """Weights of any known format under timm's names, without the parts that no classifier uses.

    source: where they are from, for messages. Raises InputError if the format is not known.
    """
    found = ((name, end) for end in WEIGHT_FORMATS for name in tensors if _ends_with(name, end))
    marker, end = next(found, (None, ""))
    if marker is None:
        raise InputError(
            f"{source} holds no Vision Transformer that vitlit knows: it has {first_few(tensors)}, "
            f"but no patch embedding ({' or '.join(WEIGHT_FORMATS)})"
        )
    notes: list[str] = []
    kind = WEIGHT_FORMATS[end]
    prefix = marker.removesuffix(end) + kind.tower
    state = _without_prefix(_without_texts(tensors, prefix, notes), prefix, notes)
    if kind.rules is GOOGLE_RULES:  # before the names change, which hold the number of the block
        state = _unstacked(state)
    state = renamed(state, kind.rules)
    told: dict[str, Any] = {}
    if kind.rules is GOOGLE_RULES:
        query = state.get("blocks.0.attn.q.weight")  # (D, h, d): the one format that shows heads
        if query is not None and query.ndim == 3:
            told["num_heads"] = query.shape[1]
        state = {name: _from_jax(name, value) for name, value in state.items()}
    if state.get("reg_token", torch.ones(1)).numel() == 0:  # transformers' DINOv3 without any
        del state["reg_token"]
    if "rope.freqs" in state:  # timm's, by any name of the architecture or none
        raise InputError(
            f"{source} {LEARNT_FREQUENCIES}, which this Vision Transformer does not; give weights "
            f"of another architecture"
        )
    untold_rope = _untold_rope(state) if kind.rules is TIMM_RULES else None
    state = joined(state)
    rotary = _tell_rotary(state, kind, end, told)
    if told.get("rope") == "centred":  # DINOv3, unless its settings say otherwise
        kind = kind._replace(norm_eps=1e-5)
    kind = _tell_pooling(state, kind, told, notes)
    if any(".gamma_" in name for name in tensors) and "pos_embed" in state:
        notes.append(
            "read as DeiT III's, or as the folder of the model says; names do not show rotary "
            "positions"
        )
    _drop(state, told, notes)
    return Translated(state, kind, told, rotary, notes, untold_rope)


def _untold_rope(state: dict[str, Tensor]) -> str | None:
    """The family of timm, by its names, whose rotary positions no name shows; None for others."""
    if "pos_embed" not in state:  # refused later, unless settings tell rotary positions
        return None
    if any(map(EVA02_NAMES.search, state)):
        return EVA02
    # published models with a norm before the blocks and without rotary positions are CLIP's
    has_last = "norm.weight" in state or "fc_norm.weight" in state
    is_clip = has_last and "attn_pool.latent" not in state
    return PERCEPTION_ENCODER if "norm_pre.weight" in state and not is_clip else None


def _tell_rotary(
    state: dict[str, Tensor], kind: WeightFormat, end: str, told: dict[str, Any]
) -> Rotary | None:
    """Add the rotary positions that only DINOv3's and the Perception Encoder's files can have."""
    periods = state.get("rope_embed.periods")  # of DINOv3's own files: base^(2i / (d/2))
    if end == "embeddings.patch_embeddings.weight" or periods is not None:
        told |= {"rope": "centred", "pos_embed": "none"}
        if periods is not None and periods.numel() > 1:
            ratio = float(periods[-1] / periods[0])
            told["rope_base"] = round(ratio ** (periods.numel() / (periods.numel() - 1)))
        return Rotary(halves=True)
    is_pe = kind.rules is OPEN_CLIP_RULES and (
        "attn_pool.latent" in state or "norm.weight" not in state
    )
    if not is_pe or "pos_embed" not in state or state["pos_embed"].ndim != 3:
        return None
    has_class_token = "cls_token" in state
    told |= {
        "rope": "index",
        "rope_base": 10000.0,
        "rope_grid": math.isqrt(state["pos_embed"].shape[1] - has_class_token),
        "rope_offset": float(has_class_token),
        "final_norm": "norm.weight" in state,
    }
    if "attn_pool.latent" in state:
        told |= {"pool_heads": 8, "pool_include_prefix": True}
    else:  # lang and spatial pool nothing: averaged, as in timm
        told["global_pool"] = "avg"
    return Rotary(columns_first=True)


def _tell_pooling(
    state: dict[str, Tensor], kind: WeightFormat, told: dict[str, Any], notes: list[str]
) -> WeightFormat:
    """Add what transformers' image towers do with their tokens; returns the format.

    CLIP's classifier averages the patches without a norm, SigLIP's those after it.
    """
    if kind.rules is not HUGGING_FACE_PAIR_RULES:
        return kind
    is_clip = "cls_token" in state
    if "head.weight" in state:
        told |= {"global_pool": "avg", "fc_norm": False, "final_norm": not is_clip}
        unused = "norm." if is_clip else "attn_pool."
        for name in [name for name in state if name.startswith(unused)]:
            del state[name]
        notes.append(
            f"dropped the {'final norm' if is_clip else 'attention pooling'}, which transformers' "
            f"classifier does not use"
        )
    if is_clip:
        return kind._replace(act="quick_gelu", mean=CLIP_MEAN, std=CLIP_STD)
    return kind._replace(act="gelu_tanh", norm_eps=1e-6, mean=HALF, std=HALF)


def _without_texts(tensors: dict[str, Tensor], prefix: str, notes: list[str]) -> dict[str, Tensor]:
    """The tensors without those of the text tower that stands beside the images' at ``prefix``."""
    if not prefix.endswith(("visual.", "vision_model.", "trunk.")):
        return tensors
    tower = re.match(r"(.*?)(?:visual|vision_model)\.", prefix)
    outer = tower[1] if tower else ""
    texts = [
        name
        for name in tensors
        if name.startswith(outer) and re.match(TEXT_PARTS, name.removeprefix(outer))
    ]
    if texts:
        notes.append("dropped the text tower")
    return {name: value for name, value in tensors.items() if name not in set(texts)}


def _ends_with(name: str, end: str) -> bool:
    # whole parts of the name alone: "xconv_proj.weight" is another one
    return name == end or name.endswith((f".{end}", f"/{end}"))


def _without_prefix(tensors: dict[str, Tensor], prefix: str, notes: list[str]) -> dict[str, Tensor]:
    """Names without the prefix of the patch filters' name (module., backbone., params/ ...)."""
    if "/" in prefix:  # a JAX tree: arrays beside the model (optimiser, text tower) are dropped
        inside = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
        if len(inside) < len(tensors):
            notes.append(f"dropped {len(tensors) - len(inside)} arrays outside {prefix}")
        return inside
    # part by part, and only where it is there: the head may stand outside (vit.x, classifier)
    for part in prefix.split(".")[:-1]:
        tensors = {name.removeprefix(f"{part}."): value for name, value in tensors.items()}
    return tensors


def renamed(state: dict[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The state with the names that the rules make of them."""
    return {_renamed(name, rules): value for name, value in state.items()}


def _renamed(name: str, rules: Rules) -> str:
    # all rules, each on the result of those before it: a name is several parts
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _unstacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split arrays ``(L, ...)``, in which big_vision may keep all blocks, into one per block."""
    stacked = "Transformer/encoderblock/"
    result = {}
    for name, value in state.items():
        if not name.startswith(stacked) or value.ndim == 0:
            result[name] = value
            continue
        for number, part in enumerate(value):
            result[f"Transformer/encoderblock_{number}/{name.removeprefix(stacked)}"] = part
    return result


def _from_jax(name: str, value: Tensor) -> Tensor:
    """An array in PyTorch's layout ``(out, in)``; JAX stores ``(in, out)``, with heads apart.

    The cases stand in order: names first, then what all other matrices have in common.
    """
    if name == FILTERS_KEY and value.ndim == 4:
        return value.permute(3, 2, 0, 1).contiguous()  # (P, P, C, D) -> (D, C, P, P)
    if re.search(r"\.attn\.[qkv]\.bias$", name):
        return value.flatten()  # (h, d) -> (D)
    if name.endswith(".attn.proj.weight") and value.ndim == 3:
        return value.flatten(0, 1).T.contiguous()  # (h, d, D) -> (D, h*d)
    if name.endswith(".weight") and value.ndim in (2, 3):
        return value.flatten(1).T.contiguous()  # (in, out) or (D, h, d) -> (out, in)
    return value


def _drop(state: dict[str, Tensor], told: dict[str, Any], notes: list[str]) -> None:
    """Remove, in place, the parts that a classifier does not use; tell what the rest shows."""
    parts = dict(DROPPED_PARTS)
    if "dist_token" in state and "reg_token" not in state:
        # DeiT's second token stands where a register does, and has a position of its own
        state["reg_token"] = state.pop("dist_token")
        notes.append("the distillation token is kept as a register")
    if any(name.startswith("head_dist.") for name in state):
        parts[r"^head(_dist)?\."] = "both heads, whose answers the model averages"
    # Google's pre-training puts a hidden layer before the head, which fine-tuning drops
    # (Dosovitskiy et al., 2021, section 3.1)
    if any(name.startswith("pre_logits.") for name in state):
        parts[r"^(pre_logits|head)\."] = "the representation layer and the head that reads it"
    head, norm = state.get("head.weight"), state.get("norm.weight")
    if head is not None and norm is not None and head.shape[1:] == (2 * norm.numel(),):  # DINOv2's
        if (half := _used_half(head)) is None:
            parts[r"^head\."] = "the head, which reads class token and average together"
        else:
            state["head.weight"] = head.chunk(2, dim=1)[half].clone()
            told |= {"global_pool": ("token", "avg")[half]}
    for pattern, what in parts.items():
        found = [name for name in state if re.search(pattern, name)]
        if head is not None and "head.weight" in found:  # a user who wanted these classes must know
            what = f"{what}, of {len(head)} classes"
        for name in found:
            del state[name]
        if found and what:
            notes.append(f"dropped {what}")


def _used_half(head: Tensor) -> int | None:
    """Which half of its inputs a head ``(K, 2 D)`` reads, 0 or 1; None if it reads both."""
    used = [bool(half.any()) for half in head.chunk(2, dim=1)]
    return None if all(used) else used.index(True) if any(used) else 0


def positions_with_prefix(
    table: Tensor, *, patches: int, class_token: int, reg_tokens: int
) -> Tensor | None:
    """Positions ``(1, R, D)`` with a row for each prefix token, or None if R does not fit.

    Some formats give no position to registers (DINOv2), or to any prefix token (big_vision,
    timm's ``no_embed_class``). Such a token gets a row of zeros, which changes nothing.
    """
    rows = table.shape[1] - patches
    if rows not in (0, class_token, class_token + reg_tokens):
        return None
    missing = table.new_zeros(1, class_token + reg_tokens - rows, table.shape[2])
    # tokens stand as class token, registers, patches: the missing rows come before the patches
    return torch.cat([table[:, :rows], missing, table[:, rows:]], dim=1)
