"""Names and settings of exported weights, as a library needs them that computes the same model.

Portable -> {name: tensor}, {file name: content}, for timm and vitlit
"""

import json
import re
from typing import Any

from torch import Tensor

from vitlit.deploy.portable import (
    AIMV2_MODEL,
    BEIT_MODEL,
    EVA_MODELS_BY_EPS,
    TIMM_MODELS_BY_EPS,
    Naming,
    Portable,
    move_patch_bias,
    timm_kind,
)
from vitlit.images.published_framing import framing_words, timm_settings
from vitlit.patches import pair
from vitlit.weights.file_reader import CONFIG_NAME
from vitlit.weights.model_config import METADATA_KEY

TIMM_SIZES = {  # embed_dim, depth, num_heads -> timm's name, and the patch and image sizes it has
    (192, 12, 3): ("tiny", {(16, 224), (16, 384)}),
    (384, 12, 6): ("small", {(32, 224), (32, 384), (16, 224), (16, 384), (8, 224)}),
    (768, 12, 12): ("base", {(32, 224), (32, 384), (16, 224), (16, 384), (8, 224)}),
    (1024, 24, 16): ("large", {(32, 224), (32, 384), (16, 224), (16, 384), (14, 224)}),
    (1280, 32, 16): ("huge", {(14, 224)}),
}
SHARED_WITH_TIMM = (  # arguments of the same name and meaning
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "qkv_bias",
    "global_pool",
    "class_token",
    "reg_tokens",
    "fc_norm",
)


def timm_tensors(portable: Portable) -> dict[str, Tensor]:
    """Weights under timm's names, which are ours."""
    state = dict(portable.model.state_dict())
    if portable.arguments["pre_norm"]:
        move_patch_bias(state, portable.model.num_prefix_tokens)
    match timm_kind(portable.arguments):
        case "eva":
            is_apart = portable.arguments["sub_norm"] != "none"
            return _with_halves(_with_gammas(state)) if is_apart else _with_gammas(state)
        case "beit":
            return _without_key_biases(_with_gammas(state))
        case "aimv2":
            return _with_halves(state)
    return state


def _with_gammas(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """LayerScale under the names of timm's Eva and Beit."""
    return {re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", n): value for n, value in state.items()}


def _with_halves(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The halves of gated MLPs apart."""
    named = {}
    for name, value in state.items():
        halves = state[re.sub(r"fc1\.\w+$", "fc2.weight", name)].shape[1] if ".fc1." in name else 0
        is_gated = ".blocks." in f".{name}" and len(value) == 2 * halves
        if not is_gated:
            named[name] = value
            continue
        for letter, half in zip("gx", value.chunk(2), strict=True):
            # cloned: safetensors refuses tensors that share memory
            named[name.replace(".fc1.", f".fc1_{letter}.")] = half.clone()
    return named


def _without_key_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Biases of queries and values alone: the softmax takes away what all keys have in common."""
    named = {}
    for name, value in state.items():
        if not name.endswith(".attn.qkv.bias"):
            named[name] = value
            continue
        q, _, v = value.chunk(3)
        owner = name.removesuffix("qkv.bias")
        named |= {f"{owner}q_bias": q.clone(), f"{owner}v_bias": v.clone()}
    return named


def timm_files(portable: Portable) -> dict[str, Any]:
    """config.json as on timm's hub; ``model_args`` define the model, whatever its name."""
    told = portable.arguments
    size, published = TIMM_SIZES.get(
        (told["embed_dim"], told["depth"], told["num_heads"]), ("", set())
    )
    height, across = portable.model.img_size
    is_published = height == across and (told["patch_size"], height) in published
    is_published &= told["norm_eps"] == min(TIMM_MODELS_BY_EPS)
    name = f"vit_{size}_patch{told['patch_size']}_{height}"
    model_args = _timm_arguments(told)
    match timm_kind(told):
        case "eva":
            name, model_args = EVA_MODELS_BY_EPS[told["norm_eps"]], _eva_arguments(portable)
        case "beit":
            name, model_args = BEIT_MODEL, _beit_arguments(told)
        case "aimv2":
            name, model_args = AIMV2_MODEL, _aimv2_arguments(told)
        case _ if not is_published:
            name = TIMM_MODELS_BY_EPS[told["norm_eps"]]
    settings = {
        "input_size": portable.input_size,
        "fixed_input_size": True,  # positions belong to this size
        "mean": portable.mean,
        "std": portable.std,
        **timm_settings(portable.framing),
        "num_classes": told["num_classes"],
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    config = {
        "architecture": name,
        "num_classes": told["num_classes"],
        "num_features": told["embed_dim"],
        "global_pool": told["global_pool"],
        "model_args": model_args,
        "pretrained_cfg": settings,
    }
    if portable.class_names:
        config["label_names"] = portable.class_names
    return {CONFIG_NAME: config}


def _timm_arguments(told: dict[str, Any]) -> dict[str, Any]:
    """The arguments of timm's VisionTransformer, from those of ViT."""
    arguments = {name: told[name] for name in SHARED_WITH_TIMM}
    arguments |= {
        "act_layer": told["act"],
        # fixed positions are written as a table, which timm holds as learned ones
        "pos_embed": "none" if told["pos_embed"] == "none" else "learn",
        "pre_norm": told["pre_norm"],  # of the architecture that 1e-5 needs, it is true
    }
    optional = {
        "init_values": told["init_values"],
        "final_norm": None if told["final_norm"] else False,
        "qk_norm": told["qk_norm"] or None,
        "scale_attn_norm": told["sub_norm"] == "both" or None,
        "scale_mlp_norm": told["sub_norm"] != "none" or None,
    }
    return arguments | {name: value for name, value in optional.items() if value is not None}


def _beit_arguments(told: dict[str, Any]) -> dict[str, Any]:
    """The arguments of timm's Beit, which always has a class token, from those of ViT."""
    own = ("reg_tokens", "class_token", "fc_norm")
    return {name: told[name] for name in SHARED_WITH_TIMM if name not in own} | {
        "use_abs_pos_emb": told["pos_embed"] != "none",
        "use_rel_pos_bias": True,
        "init_values": told["init_values"],
        "use_fc_norm": told["fc_norm"],
    }


def _aimv2_arguments(told: dict[str, Any]) -> dict[str, Any]:
    """The arguments of timm's VisionTransformer beside those that AIMv2's architecture sets."""
    arguments = _timm_arguments(told) | {"proj_bias": True}  # AIMv2 has none, ours are exported
    del arguments["act_layer"]  # SiLU, between the halves
    return arguments


def _eva_arguments(portable: Portable) -> dict[str, Any]:
    """The arguments of timm's Eva, from those of ViT, with what its architectures set."""
    told, state = portable.arguments, portable.model.state_dict()
    own = ("reg_tokens", "class_token", "fc_norm")
    is_map = told["global_pool"] == "map"
    return {name: told[name] for name in SHARED_WITH_TIMM if name not in own} | {
        "class_token": "cls_token" in state,
        "num_reg_tokens": told["reg_tokens"],
        "attn_type": "rope",  # which has biases of queries, keys and values, as ours
        "qkv_fused": True,
        "qk_norm": told["qk_norm"],
        "scale_attn_inner": told["sub_norm"] == "both",
        "scale_mlp": told["sub_norm"] != "none",
        "swiglu_mlp": told["mlp"] == "swiglu",
        "init_values": told["init_values"],
        "use_abs_pos_emb": told["pos_embed"] != "none",
        "use_rot_pos_emb": told["rope"] != "none",
        "rope_type": "dinov3" if told["rope"] == "centred" else "cat",
        "rope_rotate_half": False,
        "rope_temperature": told["rope_base"],
        "rope_grid_offset": told["rope_offset"],
        "ref_feat_shape": None if told["rope_grid"] is None else list(pair(told["rope_grid"])),
        "use_pre_transformer_norm": told["pre_norm"],
        "use_post_transformer_norm": "norm.weight" in state,
        "use_fc_norm": "fc_norm.weight" in state,
        "attn_pool_num_heads": told["pool_heads"] if is_map else None,
        "attn_pool_mlp_ratio": told["pool_mlp_ratio"] if is_map else None,
        "dynamic_img_size": False,
    }


def own_metadata(portable: Portable, naming: Naming) -> dict[str, str]:
    """Metadata of a safetensors file, for :func:`.pretrained.load_weights`.

    naming: of its weights, timm or vitlit.
    """
    arguments = portable.arguments
    if naming == "timm" and arguments["pre_norm"]:
        # the bias of the patches is in the table now: a fixed one, made anew, would lack it
        arguments = arguments | {"pos_embed": "learn"}
    told = {
        "arguments": arguments,
        "mean": portable.mean,
        "std": portable.std,
        "class_names": portable.class_names,
        **framing_words(portable.framing),
        **portable.task.told(len(portable.class_names)),
    }
    return {METADATA_KEY: json.dumps(told)}
