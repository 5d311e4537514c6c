"""The arguments of a ViT: their choices, and the defaults that depend on other arguments.

arguments as given -> the same, complete and checked, as plain values for a YAML file
"""

import math
from typing import Any, Literal, get_args

from vitlit.errors import InputError, check_at_least, check_below_one, check_is_number
from vitlit.model.blocks import ActName, MlpName
from vitlit.model.initial_values import AttentionInitName
from vitlit.model.local_attention import AttentionName, usual_gpsa_blocks
from vitlit.model.norms import NormName
from vitlit.model.patch_embed import PatchEmbedName, StemNormName
from vitlit.model.positions import ROPE_BASE, RopeName
from vitlit.patches import pair

PosEmbedName = Literal["learn", "sincos1d", "sincos2d", "rope", "none"]
PoolName = Literal["token", "avg", "seq", "map"]
SubNormName = Literal["none", "mlp", "both"]
VIT_CHOICES = {
    "patch_embed": PatchEmbedName,
    "stem_norm": StemNormName,
    "attention": AttentionName,
    "attention_init": AttentionInitName,
    "pos_embed": PosEmbedName,
    "rope": RopeName,
    "global_pool": PoolName,
    "mlp": MlpName,
    "act": ActName,
    "norm": NormName,
    "sub_norm": SubNormName,
}
# The kinds of the others; where ViT takes a size, pair and grid_size check it.
WHOLE = (
    "in_chans",
    "num_classes",
    "embed_dim",
    "depth",
    "num_heads",
    "stem_convs",
    "gpsa_blocks",
    "pool_heads",
    "reg_tokens",
)
NUMBERS = (
    "mlp_ratio",
    "locality_strength",
    "rope_base",
    "rope_offset",
    "pool_mlp_ratio",
    "norm_eps",
    "init_values",
    "drop_rate",
    "pos_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
)
SWITCHES = (
    "qkv_bias",
    "pool_include_prefix",
    "class_token",
    "fc_norm",
    "final_norm",
    "pre_norm",
    "embed_norm",
    "qk_norm",
)
MAY_BE_NONE = (
    "gpsa_blocks",
    "pool_heads",
    "pool_mlp_ratio",
    "class_token",
    "fc_norm",
    "init_values",
)
NO_MAP = "no global_pool map"
# Arguments that have no effect in some case: that case, and the default, which is all that may be
# given then.
IDLE = {
    "stem_convs": ("no patch_embed conv_stem", 1),
    "stem_norm": ("stem_convs 1", "group"),
    "rope_base": ("rope none", ROPE_BASE),
    "rope_grid": ("rope none", None),
    "rope_offset": ("rope none", 0.0),
    "pool_heads": (NO_MAP, None),
    "pool_mlp_ratio": (NO_MAP, None),
    "pool_include_prefix": (NO_MAP, False),
}
MAP_ARGUMENTS = tuple(name for name, (state, _) in IDLE.items() if state == NO_MAP)


def complete_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """ViT's arguments as plain values, with the defaults filled in that depend on others.

    Raises InputError for arguments that are out of range or contradict each other.
    """
    told = dict(given)
    check_choices(told)
    _check_kinds(told)
    check_at_least(
        1, **{name: told[name] for name in ("embed_dim", "depth", "in_chans", "stem_convs")}
    )
    check_at_least(0, num_classes=told["num_classes"], reg_tokens=told["reg_tokens"])
    hidden_width(told, "mlp_ratio")
    rates = {name: value for name, value in told.items() if name.endswith("_rate")}
    check_below_one(norm_eps=told["norm_eps"], **rates)
    _complete_rope(told)
    _complete_pool(told)
    _check_idle(told)
    _check_structured(told)
    if told["attention"] == "gpsa" and told["gpsa_blocks"] is None:
        told["gpsa_blocks"] = usual_gpsa_blocks(told["depth"])
    height, width = pair(told["img_size"])
    return told | {"img_size": height if height == width else [height, width]}


def check_choices(told: dict[str, Any]) -> None:
    """Refuse unknown choices among ViT's arguments."""
    for name, names in VIT_CHOICES.items():
        value, known = told[name], get_args(names)
        if value not in known:
            message = f"unknown {name} {value!r}; known: {', '.join(known)}"
            raise InputError(message, argument=name)


def _check_kinds(told: dict[str, Any]) -> None:
    """Refuse what is of another kind: text, or a fraction where there must be a whole number."""
    for name in (*WHOLE, *NUMBERS, *SWITCHES):
        value = told[name]
        if value is None and name in MAY_BE_NONE:
            continue
        if name in SWITCHES and not isinstance(value, bool):
            raise InputError(f"{name} {value!r} is neither true nor false; give one", argument=name)
        check_is_number(name, value)
        if name in WHOLE and not hasattr(value, "__index__"):
            message = f"{name} {value} is not a whole number; give one"
            raise InputError(message, argument=name)


def hidden_width(told: dict[str, Any], name: str) -> int:
    """The width of an MLP whose ratio to embed_dim is the argument ``name``."""
    ratio = told[name]
    # int() fails for infinity and NaN; 0 sends them to the message below
    hidden = int(told["embed_dim"] * ratio) if math.isfinite(ratio) else 0
    if hidden < 1:
        raise InputError(f"{name} {ratio} leaves the MLP no width; 4 is usual", argument=name)
    return hidden


def _complete_rope(told: dict[str, Any]) -> None:
    if told["pos_embed"] == "rope":  # the name before rotary positions had arguments of their own
        if told["rope"] == "centred":
            raise InputError(
                "pos_embed rope means pos_embed none and rope index, which contradicts rope "
                "centred; give pos_embed none",
                argument=("pos_embed", "rope"),
            )
        told |= {"pos_embed": "none", "rope": "index"}
    base = told["rope_base"]
    if not (math.isfinite(base) and base > 0):
        raise InputError(f"rope_base {base} is not positive; 100 is usual", argument="rope_base")
    if not math.isfinite(told["rope_offset"]):
        raise InputError(
            f"rope_offset {told['rope_offset']} is not finite; 0 is usual", argument="rope_offset"
        )
    grid = told["rope_grid"]
    if grid is None:
        return
    if told["rope"] == "centred":
        raise InputError(
            f"rope_grid {grid} has no effect with rope centred, whose positions do not depend on "
            f"the size of the grid; leave it out",
            argument=("rope_grid", "rope"),
        )
    rows, cols = pair(grid)
    check_at_least(1, rope_grid=min(rows, cols))
    told["rope_grid"] = rows if rows == cols else [rows, cols]


def _complete_pool(told: dict[str, Any]) -> None:
    pool = told["global_pool"]
    if told["class_token"] is None:
        told["class_token"] = pool == "token"
    if pool == "token" and not told["class_token"]:
        raise InputError(
            "global_pool token needs a class token; leave out class_token false, or give avg",
            argument="global_pool",
        )
    if told["fc_norm"] is None:
        told["fc_norm"] = pool == "avg" and told["final_norm"]
    if told["fc_norm"] and not told["final_norm"]:
        raise InputError(
            "fc_norm true and final_norm false contradict each other; leave one out",
            argument=("fc_norm", "final_norm"),
        )
    if pool == "map":
        if told["pool_heads"] is None:
            told["pool_heads"] = told["num_heads"]
        check_at_least(1, pool_heads=told["pool_heads"])
        if told["pool_mlp_ratio"] is None:
            told["pool_mlp_ratio"] = told["mlp_ratio"]


def idle_arguments(told: dict[str, Any]) -> dict[str, str]:
    """The arguments of ViT that have no effect beside the others, each with the reason."""
    without = {
        "no patch_embed conv_stem": told["patch_embed"] != "conv_stem",
        "stem_convs 1": told["stem_convs"] == 1,
        "rope none": told["rope"] == "none",
        NO_MAP: told["global_pool"] != "map",
    }
    return {name: state for name, (state, _) in IDLE.items() if without[state]}


def _check_idle(told: dict[str, Any]) -> None:
    """Refuse arguments that would have no effect: whoever gives one expects an effect."""
    for name, state in idle_arguments(told).items():
        _, usual = IDLE[name]
        if told[name] != usual:
            raise InputError(
                f"{name} {told[name]} has no effect with {state}; leave it out", argument=name
            )


def _check_structured(told: dict[str, Any]) -> None:
    """Refuse attention_init structured where learned positions do not decide the logits.

    Tables of sines have few directions: with sincos2d and the published norms the wanted patch gets
    0.02 of the attention, about its even share, instead of 0.7 to 1.
    """
    needs = {"attention": "softmax", "pos_embed": "learn", "rope": "none", "qk_norm": False}
    for name, value in needs.items() if told["attention_init"] == "structured" else ():
        if told[name] != value:
            raise InputError(
                f"attention_init structured needs {name} {str(value).lower()}, not "
                f"{str(told[name]).lower()}; change either",
                argument=("attention_init", name),
            )
