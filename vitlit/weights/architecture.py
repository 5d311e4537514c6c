"""The arguments of a ViT, inferred from the names and shapes of weights.

{timm's name: tensor}, what the source tells, what the user gives -> ViT's arguments
"""

import math
import re
from typing import Any

import torch
from torch import Tensor

from vitlit.errors import InputError, first_few
from vitlit.model.vit import ViT
from vitlit.weights.image_size import image_size
from vitlit.weights.reshaping import RELATIVE_ENDING
from vitlit.weights.weight_formats import FILTERS_KEY, WeightFormat

# embed_dim -> heads of published models whose heads are not 64 wide: so400m, huge, giant, gigantic
PUBLISHED_NUM_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
RELATIVE_KEY = f"blocks.0{RELATIVE_ENDING}"
FIRST_MLP_KEY, SECOND_MLP_KEY = "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"
UNTOLD_POOL = (
    "global_pool token assumed, since the weights have a class token and no fc_norm; if the model "
    "averages its patches, the outputs are wrong: give the folder of the model, whose config.json "
    "states it, or global_pool avg, class_token true and fc_norm false"
)
KNOWN_KEYS = re.compile(  # of a plain ViT; only for the message that refuses another architecture
    r"(cls_token|reg_token|pos_embed|patch_embed\.(proj|norm)\.(weight|bias)|attn_pool\..*"
    r"|(fc_norm|norm|norm_pre|head)\.(weight|bias)"
    r"|blocks\.\d+\.((norm[12]|attn\.(qkv|proj|norm|[qk]_norm)|mlp\.(fc[12]|norm))\.(weight|bias)"
    r"|ls[12]\.gamma))"
)


def infer_arguments(
    state: dict[str, Tensor],
    told: dict[str, Any],
    given: dict[str, Any],
    kind: WeightFormat,
    source: str,
    notes: list[str],
) -> dict[str, Any]:
    """ViT's arguments from names and shapes; completes ``state["pos_embed"]`` in place.

    told: what the source's settings say; given: what the user says, used where the source is
    silent; notes: a line is added for each assumption. Raises InputError if no plain ViT fits.
    """
    width, channels, patch, across = _shape(state, FILTERS_KEY, 4, source)
    if patch != across:
        raise InputError(f"{source} has patches of {patch}x{across} pixels; they must be square")
    if FIRST_MLP_KEY not in state:
        _refuse_other(state, source)
    first = _shape(state, FIRST_MLP_KEY, 2, source)[0]
    hidden = _shape(state, SECOND_MLP_KEY, 2, source)[1]
    has_class_token, has_fc_norm = "cls_token" in state, "fc_norm.weight" in state
    registers = _shape(state, "reg_token", 3, source)[1] if "reg_token" in state else 0
    if "pos_embed" in state:
        _shape(state, "pos_embed", 3, source)
    # weights with rotary positions have no table either, and would load but compute nonsense
    elif RELATIVE_KEY in state:
        told = _relative_size(state, patch, source) | told
    elif told.get("pos_embed") != "none" and told.get("rope", "none") == "none":
        _refuse_other(state, source)
    pool = _pool(state, told, given, kind, notes)
    inferred = {
        "img_size": image_size(state, (told, given), patch, kind, source, notes),
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": _shape(state, "head.weight", 2, source)[0] if "head.weight" in state else 0,
        "embed_dim": width,
        "depth": _depth(state),
        "num_heads": _num_heads(told, given, width, notes),
        "mlp_ratio": _ratio(hidden, width),
        "mlp": "swiglu" if first == 2 * hidden else "gelu",
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "attention": "relative" if RELATIVE_KEY in state else "softmax",
        "pos_embed": "learn" if "pos_embed" in state else "none",
        "global_pool": pool,
        # None where it follows from global_pool, so that it changes if the user changes that
        "class_token": None if has_class_token == (pool == "token") else has_class_token,
        "reg_tokens": registers,
        "fc_norm": None if has_fc_norm == (pool == "avg") else has_fc_norm,
        # the first value of LayerScale is lost in training; any number makes ViT have the parameter
        "init_values": told.get("init_values", 1e-5) if "blocks.0.ls1.gamma" in state else None,
        **_norms(state, told),
    }
    if not inferred["final_norm"]:
        inferred["fc_norm"] = None
    if pool == "map":
        pool_hidden = _shape(state, "attn_pool.mlp.fc1.weight", 2, source)[0]
        inferred["pool_mlp_ratio"] = _ratio(pool_hidden, width)
    return inferred


def _relative_size(state: dict[str, Tensor], patch: int, source: str) -> dict[str, Any]:
    """The image size of a square whose relative positions have this table; empty for others."""
    sides = math.isqrt(max(0, _shape(state, RELATIVE_KEY, 2, source)[0] - 3))
    is_square = sides % 2 == 1 and sides**2 + 3 == len(state[RELATIVE_KEY])
    return {"img_size": (sides + 1) // 2 * patch} if is_square else {}


def _pool(
    state: dict[str, Tensor],
    told: dict[str, Any],
    given: dict[str, Any],
    kind: WeightFormat,
    notes: list[str],
) -> str:
    """The pooling: as told if the weights have its parts, else as their parts tell."""
    pool, has_class_token = told.get("global_pool"), "cls_token" in state
    if "attn_pool.latent" in state:
        return "map"
    # timm's other poolings ("", "max", ...) are no part of this ViT: the weights decide then
    if pool == "avg" or (pool == "token" and has_class_token):
        return str(pool)
    if "fc_norm.weight" in state or not has_class_token:
        return "avg"
    # timm's models with norm before the average have the very same weights
    if kind.name == "timm" and "global_pool" not in given:
        notes.append(UNTOLD_POOL)
    return "token"


def _norms(state: dict[str, Tensor], told: dict[str, Any]) -> dict[str, Any]:
    """The arguments about norms, by the parameters that are there."""
    has_last = "norm.weight" in state or "fc_norm.weight" in state
    in_mlp = "blocks.0.mlp.norm.weight" in state
    is_rms = "blocks.0.norm1.weight" in state and "blocks.0.norm1.bias" not in state
    return {
        # a file that lacks it may be truncated: only who tells so, or has no head, has none
        "final_norm": has_last
        or not (told.get("final_norm") is False or "head.weight" not in state),
        "pre_norm": "norm_pre.weight" in state,
        "embed_norm": "patch_embed.norm.weight" in state,
        "qk_norm": "blocks.0.attn.q_norm.weight" in state,
        "sub_norm": "both" if "blocks.0.attn.norm.weight" in state else "mlp" if in_mlp else "none",
        "norm": "rms" if is_rms else "layer",
    }


def _shape(state: dict[str, Tensor], name: str, ndim: int, source: str) -> list[int]:
    """The shape of a tensor; refuses a tensor that is missing, empty or of other dimensions."""
    if name not in state or state[name].ndim != ndim or 0 in state[name].shape:
        raise InputError(f"{source} has no usable {name}; it is truncated or of another model")
    return list(state[name].shape)


def _depth(state: dict[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def _ratio(hidden: int, width: int) -> float:
    """The mlp_ratio from which ViT computes exactly ``hidden`` again."""
    ratio = hidden / width
    # ViT truncates width * ratio, which may round to just below hidden; half a unit more does not
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _num_heads(
    told: dict[str, Any], given: dict[str, Any], width: int, notes: list[str]
) -> int | Any:
    """The heads as told or given; no shape shows them, so else those of published models."""
    for known in (told, given):
        if known.get("num_heads") is not None:
            return known["num_heads"]
    # ViT, DeiT and DINO have heads 64 wide
    num_heads = PUBLISHED_NUM_HEADS.get(width, max(1, width // 64))
    notes.append(
        f"num_heads {num_heads} assumed, as in published models of width {width}, since the "
        f"weights do not say; if that is wrong, so are the outputs: give num_heads"
    )
    return num_heads


def _refuse_other(state: dict[str, Tensor], source: str) -> None:
    """Refuse another architecture by the names that are foreign and those that are missing."""
    foreign = [name for name in state if not KNOWN_KEYS.fullmatch(name)]
    wanted = {"blocks.0.mlp": FIRST_MLP_KEY, "learned positions (pos_embed)": "pos_embed"}
    lacks = " and no ".join(what for what, name in wanted.items() if name not in state)
    if not foreign:
        raise InputError(f"{source} has no {lacks}; it is truncated or of another model")
    raise InputError(
        f"{source} has another architecture than this Vision Transformer: it has "
        f"{first_few(foreign)}, but no {lacks}; give weights of a plain ViT, DeiT or DINO"
    )


def check_weights(state: dict[str, Tensor], arguments: dict[str, Any], source: str) -> None:
    """Refuse weights that are not exactly those of the model that the arguments describe."""
    depth = _depth(state)
    if arguments.get("depth", depth) != depth:  # before a model of any depth is built
        raise InputError(
            f"{source} has {depth} blocks, but says depth {arguments['depth']}; it is damaged, "
            f"use another"
        )
    try:
        # shapes alone: a broken file may describe a model that no memory holds
        with torch.device("meta"):
            wanted = {name: value.shape for name, value in ViT(**arguments).state_dict().items()}
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{source} describes an impossible model: {reason}") from error
    missing = wanted.keys() - state.keys()
    unknown = [name for name in state if name not in wanted]
    if unknown:
        raise InputError(
            f"{source} has parts that this Vision Transformer lacks: {first_few(unknown)}"
        )
    if missing:
        raise InputError(f"{source} lacks {first_few(sorted(missing))}; is it complete?")
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise InputError(
                f"{name} of {source} has shape {list(state[name].shape)}, but its other parts "
                f"need {list(shape)}"
            )


def check_finite_weights(state: dict[str, Tensor], source: str) -> None:
    """Refuse weights that hold NaN or infinity, by the name of the first tensor."""
    for name, value in state.items():
        # NaN is both the least and the greatest; isfinite of every number takes ten times as long
        if value.numel() and not all(math.isfinite(end) for end in value.aminmax()):
            bad = int(value.numel() - value.isfinite().sum())
            raise InputError(
                f"{name} of {source} holds {bad} numbers that are NaN or infinite; the weights are "
                f"damaged, use others"
            )
