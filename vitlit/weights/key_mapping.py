"""Translates parameter names of published formats to timm's names, which this package uses.

{name: tensor} of timm, Hugging Face, torchvision or Google -> {timm's name: tensor}

Each format is one table of regular expressions, applied in order. A name that no table knows is
left as it is and refused later. A format is recognised by its name for the patch filters.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from vitlit.data.catalog import IMAGENET_MEAN, IMAGENET_STD
from vitlit.errors import InputError, first_few

Rules = tuple[tuple[str, str], ...]
FILTERS_KEY = "patch_embed.proj.weight"

TIMM_RULES: Rules = (
    (r"^register_tokens$", "reg_token"),  # DINOv2's own files
    (r"\.gamma_([12])$", r".ls\1.gamma"),  # DeiT III's own files
)
HUGGING_FACE_RULES: Rules = (  # transformers up to 4, and 5, which renamed layers and projections
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^(?:cls_)?classifier\.", "head."),  # cls_: DeiT's, which has a second one for its teacher
    (r"^distillation_classifier\.", "head_dist."),
)
TORCHVISION_RULES: Rules = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.(head|pre_logits)\.", r"\1."),
)
GOOGLE_RULES: Rules = (  # the published files, the newer ones of the same code, and big_vision's
    (r"^cls$", "cls_token"),
    (r"^(?:Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^embedding/", "patch_embed.proj/"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"\.LayerNorm_0/", ".norm1/"),
    (r"\.LayerNorm_[12]/", ".norm2/"),
    (r"\.MultiHeadDotProductAttention_[01]/([qkv])(?:uery|ey|alue)/", r".attn.\1/"),
    (r"\.MultiHeadDotProductAttention_[01]/out/", ".attn.proj/"),
    (r"\.MlpBlock_[03]/Dense_0/", ".mlp.fc1/"),
    (r"\.MlpBlock_[03]/Dense_1/", ".mlp.fc2/"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"/(?:kernel|scale)$", ".weight"),
    (r"/bias$", ".bias"),
)


class WeightFormat(NamedTuple):
    """How one code base names its weights and computes with them.

    mean, std: per channel, if all of its files share them; class_positions: whether the class
    token has a position in all of its files.
    """

    name: str
    rules: Rules
    norm_eps: float = 1e-6
    act: str = "gelu"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_positions: bool = True


HALF = (0.5, 0.5, 0.5)
# By the end of the name of the patch filters. norm_eps and act are those of each code base, which
# no weights show: Hugging Face's default epsilon is 1e-12, and Google's code uses the tanh GELU,
# where the exact one moves the logits by 1.3e-4.
WEIGHT_FORMATS = {
    "embeddings.patch_embeddings.projection.weight": WeightFormat(
        "Hugging Face", HUGGING_FACE_RULES, norm_eps=1e-12
    ),
    FILTERS_KEY: WeightFormat("timm", TIMM_RULES),
    "conv_proj.weight": WeightFormat(
        "torchvision", TORCHVISION_RULES, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    "embedding/kernel": WeightFormat(
        "Google", GOOGLE_RULES, act="gelu_tanh", mean=HALF, std=HALF, class_positions=False
    ),
}
DROPPED_PARTS = {  # parts of pre-training that no classifier uses
    r"^(dist_token$|head_dist\.)": "the distillation token and its head",
    r"^mask_token$": "the mask token",
    r"^decoder[._]": "the decoder",
    r"^pooler\.": "the pooler",
    r"^(head\.(mlp\.|last_layer)|(dino|ibot)_head\.)": "the projection head of self-supervision",
}


class Translated(NamedTuple):
    """Weights under timm's names, their format and notes; num_heads: None if no shape tells it."""

    state: dict[str, Tensor]
    format: WeightFormat
    num_heads: int | None
    notes: list[str]


def translate_keys(tensors: dict[str, Tensor], source: str) -> Translated:
    """Weights of any known format under timm's names, without the parts that no classifier uses.

    source: where they are from, for messages. Raises InputError if the format is not known.
    """
    found = ((name, end) for end in WEIGHT_FORMATS for name in tensors if _ends_with(name, end))
    marker, end = next(found, (None, ""))
    if marker is None:
        raise InputError(
            f"{source} holds no Vision Transformer known here: it has {first_few(tensors)}, but "
            f"no patch embedding ({' or '.join(WEIGHT_FORMATS)})"
        )
    notes: list[str] = []
    kind = WEIGHT_FORMATS[end]
    state = _without_prefix(tensors, marker.removesuffix(end), notes)
    if kind.rules is GOOGLE_RULES:  # before the names change, which hold the number of the block
        state = _unstacked(state)
    state = {_renamed(name, kind.rules): value for name, value in state.items()}
    num_heads = None
    if kind.rules is GOOGLE_RULES:
        query = state.get("blocks.0.attn.q.weight")  # (D, h, d): the one format that shows heads
        num_heads = query.shape[1] if query is not None and query.ndim == 3 else None
        state = {name: _from_jax(name, value) for name, value in state.items()}
    if any(".gamma_" in name for name in tensors):  # LayerScale of DeiT III, and of EVA
        notes.append(
            "read as DeiT III's; rotary positions, which have the same names, are not supported"
        )
    _drop(state, notes)
    return Translated(_with_joined_qkv(state), kind, num_heads, notes)


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


def _drop(state: dict[str, Tensor], notes: list[str]) -> None:
    """Remove, in place, the parts that a classifier does not use."""
    positions = state.get("pos_embed")
    if "dist_token" in state and positions is not None and positions.ndim == 3:
        # the distillation token goes, so its position, the second, goes too
        state["pos_embed"] = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)
    parts = dict(DROPPED_PARTS)
    # Google's pre-training puts a hidden layer before the head, which fine-tuning drops
    # (Dosovitskiy et al., 2021, section 3.1)
    if any(name.startswith("pre_logits.") for name in state):
        parts[r"^(pre_logits|head)\."] = "the representation layer and the head that reads it"
    head, norm = state.get("head.weight"), state.get("norm.weight")
    if head is not None and norm is not None and head.shape[1:] == (2 * norm.numel(),):
        parts[r"^head\."] = "the head, which reads class token and average together"  # DINOv2's
    for pattern, what in parts.items():
        found = [name for name in state if re.search(pattern, name)]
        if head is not None and "head.weight" in found:  # a user who wanted these classes must know
            what = f"{what}, of {len(head)} classes"
        for name in found:
            del state[name]
        if found:
            notes.append(f"dropped {what}")


def _with_joined_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values as one matrix ``(3D, D)`` and one bias ``(3D)``."""
    for name in [name for name in state if ".attn.q." in name]:
        three = [name.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        shapes = {state[part].shape if part in state else None for part in three}
        # other shapes are another architecture's, and are refused later by these names
        if None not in shapes and len(shapes) == 1 and state[name].ndim:
            joined = torch.cat([state.pop(part) for part in three])
            state[name.replace(".attn.q.", ".attn.qkv.")] = joined
    return state


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
