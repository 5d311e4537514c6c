"""What timm's code sets for its architectures, and what its config.json says of a model.

the name of an architecture, config.json -> Facts
"""

import re
from typing import Any, NamedTuple

from vitlit.errors import InputError
from vitlit.images.published_framing import framing_of_timm
from vitlit.weights.config_values import (
    Facts,
    activation,
    dict_at,
    number_at,
    row_of_numbers,
    size_of_image,
    told_class_names,
    without_none,
)
from vitlit.weights.file_reader import CONFIG_NAME
from vitlit.weights.key_mapping import LEARNT_FREQUENCIES
from vitlit.weights.reshaping import Rotary

# What timm's code sets for its architectures, and neither weights nor config.json show: figures of
# timm 1.0.31, which tests/weights/test_pretrained.py holds against the installed version.
TANH = {"act": "gelu_tanh"}
CLIP_EPS = {"norm_eps": 1e-5}
INDEX_16 = {"rope": "index", "rope_base": 1e4, "rope_grid": 16}
CENTRED = {"rope": "centred", "rope_base": 100.0, "norm_eps": 1e-5}
PE = {"rope": "index", "rope_base": 1e4, "rope_grid": 32, "rope_offset": 1.0, "norm_eps": 1e-5}
# Patterns of names and what they mean; all that match hold, later ones before earlier ones.
ARGUMENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"^test_vit2?$", {"num_heads": 2}),
    (r"^test_vit[34]$", {"num_heads": 3}),
    (r"^test_vit3$", {"pool_include_prefix": True}),
    (r"^vit_base_patch16_gap_", {"num_heads": 16}),
    (r"^vit_giantopt_", {"num_heads": 16, **TANH}),
    (r"^vit_(so400m_patch16|base_patch32|large_patch16)_siglip_(gap_)?", TANH),
    (r"^vit_large_patch16_siglip_(gap_)?(256|384)$", {"act": "gelu"}),
    (r"^vit_\w+_clip_", CLIP_EPS),
    (r"_clip_quickgelu_", {"act": "quick_gelu"}),
    (r"^(beit3|aimv2)_", CLIP_EPS),
    (r"^vit_intern300m_", {"final_norm": False}),
    (r"^eva02_|^vit_(medium|mediumd|betwixt|base)_patch16_rope_reg", INDEX_16),
    (r"_dinov3|_lingbot$", CENTRED),
    (r"^vit_\w+_patch16_rope_(ape_)?224$", {"rope": "index", "rope_base": 100.0}),
    (r"^vit_pe_", PE),
    (r"^vit_pe_core_", {"pool_heads": 8, "pool_include_prefix": True}),
    (r"^vit_pe_core_base_", {"rope_grid": 14}),
    (r"^vit_pe_core_(tiny|small|large)_", {"rope_grid": 24}),
    (r"^vit_pe_\w+_gigantic_", {"num_heads": 16, "rope_offset": 0.0}),
    (r"^vit_huge_plus_patch16_dinov3", {"num_heads": 20}),
    (r"^vit_7b_patch16_dinov3", {"num_heads": 32}),
    (r"^aimv2_large_", {"num_heads": 8}),
    (r"^aimv2_huge_", {"num_heads": 12}),
    (r"^aimv2_1b_", {"num_heads": 16}),
    (r"^aimv2_3b_", {"num_heads": 24}),
)
LAYOUTS = (
    (r"_dinov3|_lingbot$", Rotary(halves=True)),
    (r"^vit_pe_|_patch16_rope_(ape_)?224$", Rotary(columns_first=True)),
    (r"^eva02_|_rope_reg", Rotary()),
)
REFUSED = (
    (r"_rpn_", "normalises after each layer"),
    (r"_rope_mixed_", LEARNT_FREQUENCIES),
    (r"relpos_", "computes a bias of the attention from relative positions"),
    (r"^vit_d?pwee_|_xp_|_18x2_", "runs attention and MLP side by side"),
    (r"enormous_patch14_clip", "normalises after attention and MLP"),
    (r"sapiens2", "shares keys and values among heads"),
    (r"naflex|gemma4", "takes images of any grid"),
    (r"_r26_|_r50_|resnet|_rn50", "has a ResNet before its blocks"),
)
# Settings and those of their values that this ViT computes; with others outputs would be wrong.
COMPUTED: dict[str, tuple[Any, ...]] = {
    "global_pool": (None, "", "token", "avg", "map"),
    "use_post_norm": (None, False),
    "rope_mixed_mode": (None, False),
    "rope_type": (None, "", "cat", "dinov3"),
    "norm_layer": (None, "layernorm", "layernormfp32", "rmsnorm", "rmsnormfp32"),
}


class TimmModel(NamedTuple):
    """Arguments of ViT that an architecture has, and the layout of its rotary positions."""

    arguments: dict[str, Any]
    rotary: Rotary | None = None


def timm_model(architecture: str) -> TimmModel:
    """What an architecture of timm sets; raises InputError for one that no ViT here computes."""
    for pattern, reason in REFUSED:
        if re.search(pattern, architecture):
            raise InputError(
                f"{architecture} {reason}, which this Vision Transformer does not; give weights "
                f"of another architecture"
            )
    arguments: dict[str, Any] = {}
    for pattern, told in ARGUMENTS:
        if re.search(pattern, architecture):
            arguments |= told
    layouts = (rotary for pattern, rotary in LAYOUTS if re.search(pattern, architecture))
    return TimmModel(arguments, next(layouts, None))


def timm_facts(config: dict[str, Any]) -> Facts:
    settings = dict_at(config, "pretrained_cfg") or config  # older files have it all on one level
    model = dict_at(config, "model_args")
    pool = config.get("global_pool", model.get("global_pool"))
    _refuse_other_computing(model, pool)
    usual = timm_model(str(config["architecture"]).partition(".")[0])
    size = settings.get("input_size")  # [channels, height, width]
    arguments = {
        "img_size": size_of_image(
            model.get("img_size", size[1:] if isinstance(size, list) else None)
        ),
        "num_heads": number_at("num_heads", model.get("num_heads"), int),
        "global_pool": pool,
        "act": activation(model.get("act_layer")),
        "pos_embed": model.get("pos_embed"),
        "pool_include_prefix": model.get("pool_include_prefix") if pool == "map" else None,
        "final_norm": False if model.get("final_norm") is False else None,
        "init_values": number_at("init_values", model.get("init_values"), float),
        **_eva_arguments(model),
    }
    rotary = usual.rotary
    if isinstance(halves := model.get("rope_rotate_half"), bool):
        rotary = (rotary or Rotary())._replace(halves=halves)
    if order := model.get("rope_grid_indexing"):
        rotary = (rotary or Rotary())._replace(columns_first=order == "xy")
    # what config.json says about this very model has priority, if it says none too
    usual_arguments = {n: v for n, v in usual.arguments.items() if n not in _denied(model)}
    arguments = usual_arguments | without_none(arguments)
    names = told_class_names(config.get("label_names", settings.get("label_names")))
    mean, std = row_of_numbers(settings.get("mean")), row_of_numbers(settings.get("std"))
    return Facts(arguments, mean, std, names, rotary, framing_of_timm(settings))


def _refuse_other_computing(model: dict[str, Any], pool: Any) -> None:
    """Raise InputError for settings of a model that would make its outputs others than ViT's."""
    for name, computed in COMPUTED.items():
        value = pool if name == "global_pool" else model.get(name)
        if value not in computed:
            raise InputError(
                f"{CONFIG_NAME} says {name} {value!r}, which this Vision Transformer does not "
                f"compute; give other weights"
            )
    if pool == "avg" and model.get("pool_include_prefix") is True:
        raise InputError(
            f"{CONFIG_NAME} says pool_include_prefix true, and this Vision Transformer averages "
            f"patches alone; give other weights"
        )


def _eva_arguments(model: dict[str, Any]) -> dict[str, Any]:
    """The arguments of timm's Eva that its weights do not show, under ViT's names."""
    told = {
        "rope_base": number_at("rope_temperature", model.get("rope_temperature"), float),
        "rope_offset": number_at("rope_grid_offset", model.get("rope_grid_offset"), float),
        "rope_grid": size_of_image(model.get("ref_feat_shape")),
        "pool_heads": number_at("attn_pool_num_heads", model.get("attn_pool_num_heads"), int),
        "rope": {"cat": "index", "dinov3": "centred"}.get(str(model.get("rope_type"))),
    }
    if "use_rot_pos_emb" in model:  # which only Eva has: its pooling attends to all tokens
        told["pool_include_prefix"] = True if model.get("global_pool") == "map" else None
    if model.get("use_rot_pos_emb") is False:
        told |= dict.fromkeys(("rope", "rope_base", "rope_grid", "rope_offset"))
    if model.get("use_post_transformer_norm") is False and model.get("use_fc_norm") is False:
        told["final_norm"] = False
    return told


def _denied(model: dict[str, Any]) -> set[str]:
    """The arguments that an architecture has, but this model of it has not."""
    denied = {"rope_grid"} if model.get("ref_feat_shape", 0) is None else set()
    if model.get("use_rot_pos_emb") is False:
        denied |= {"rope", "rope_base", "rope_grid", "rope_offset"}
    return denied
