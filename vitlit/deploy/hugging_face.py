"""Names and settings of exported weights, as the models of transformers need them.

Portable -> {name: tensor}, {file name: content}, for the class of :mod:`.transformers_kinds`
"""

from typing import Any

import torch
from torch import Tensor

from vitlit.deploy.portable import Portable, move_patch_bias
from vitlit.deploy.transformers_kinds import Kind, class_of, dinov2_ratio, kind_of
from vitlit.images.published_framing import processor_settings
from vitlit.weights.file_reader import CONFIG_NAME, PROCESSOR_NAME
from vitlit.weights.key_mapping import renamed
from vitlit.weights.model_config import MULTI_LABEL_PROBLEM
from vitlit.weights.reshaping import Rotary, rearrange_rotary
from vitlit.weights.weight_formats import Rules

Tensors = dict[str, Tensor]
ACTS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}
# timm's names, with queries, keys and values apart -> those of transformers 4, which 5 reads too
BERT_RULES: Rules = (
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"^(fc_)?norm\.", "layernorm."),  # before or after taking one token is the same
    (r"^head\.", "classifier."),
)
PAIR_RULES: Rules = (  # the image towers of CLIP and SigLIP
    (r"^head\.", "classifier."),
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding.weight"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm_pre\.", "pre_layrnorm."),  # sic
    (r"^blocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"\.attn\.([qkv])(uery|ey|alue)\.", r".self_attn.\1_proj."),
    (r"\.attn\.proj\.", ".self_attn.out_proj."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"^(fc_)?norm\.", "post_layernorm."),
    (r"^attn_pool\.latent$", "head.probe"),
    (r"^attn_pool\.qkv\.", "head.attention.in_proj_"),
    (r"^attn_pool\.proj\.", "head.attention.out_proj."),
    (r"^attn_pool\.norm\.", "head.layernorm."),
    (r"^attn_pool\.mlp\.", "head.mlp."),
)
RULES: dict[Kind, Rules] = {
    "vit": (
        *BERT_RULES,
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    "dinov2": (*BERT_RULES, (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1")),
    "dinov3": (
        (r"^(cls_token|mask_token)$", r"embeddings.\1"),
        (r"^reg_token$", "embeddings.register_tokens"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
        (r"^blocks\.(\d+)\.", r"layer.\1."),
        (r"\.attn\.([qkv])(uery|ey|alue)\.", r".attention.\1_proj."),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
        (r"\.mlp\.fc1\.", ".mlp.up_proj."),
        (r"\.mlp\.fc2\.", ".mlp.down_proj."),
        (r"^fc_norm\.", "norm."),
    ),
    "clip": PAIR_RULES,
    "siglip": PAIR_RULES,
}


def hugging_face_tensors(portable: Portable) -> Tensors:
    """Weights under the names of the class of transformers that computes the model."""
    told, kind = portable.arguments, kind_of(portable.arguments)
    state = dict(portable.model.state_dict())
    if told["pos_embed"] == "none" and kind != "dinov3":  # which adds none
        rows, cols = portable.model.grid_size
        count = portable.model.num_prefix_tokens + rows * cols
        state["pos_embed"] = torch.zeros(1, count, told["embed_dim"])
    match kind:
        case "dinov2":
            _as_dinov2(state, told)
        case "dinov3":
            _as_dinov3(state, told)
        case "clip" | "siglip":
            _as_pair(state, portable)
    _part_queries(state)
    state = renamed(state, RULES[kind])
    tower = _tower(told)
    return {n if n.startswith("classifier.") else f"{tower}{n}": v for n, v in state.items()}


def _tower(told: dict[str, Any]) -> str:
    """What the names of all but the classifier start with."""
    kind = kind_of(told)
    if kind in ("clip", "siglip"):
        return "vision_model."
    return f"{_model_type(told)}." if told["num_classes"] else ""


def _model_type(told: dict[str, Any]) -> str:
    match kind_of(told):
        case "vit":
            return "vit"
        case "dinov2":
            return "dinov2_with_registers" if told["reg_tokens"] else "dinov2"
        case "dinov3":
            return "dinov3_vit"
        case kind:  # CLIP's and SigLIP's image towers have types of their own
            return kind if told["num_classes"] else f"{kind}_vision_model"


def _part_queries(state: Tensors) -> None:
    """Queries, keys and values apart, in place."""
    for name in [name for name in state if ".attn.qkv." in name]:
        parts = state.pop(name).chunk(3)
        for part, matrix in zip(("query", "key", "value"), parts, strict=True):
            # cloned: safetensors refuses tensors that share memory
            state[name.replace(".qkv.", f".{part}.")] = matrix.clone()


def _as_dinov2(state: Tensors, told: dict[str, Any]) -> None:
    """What DINOv2 has beside, in place; its head reads class token and average together."""
    width, registers = told["embed_dim"], told["reg_tokens"]
    table = state["pos_embed"]
    if registers:  # theirs have no positions: the tokens take those of ours
        state["reg_token"] = state["reg_token"] + table[:, 1 : 1 + registers]
        state["pos_embed"] = torch.cat([table[:, :1], table[:, 1 + registers :]], dim=1)
    _add_scales(state, told)
    state["mask_token"] = torch.zeros(1, width)
    if "head.weight" in state:
        unused = torch.zeros_like(state["head.weight"])
        is_average = told["global_pool"] == "avg"
        halves = [unused, state["head.weight"]] if is_average else [state["head.weight"], unused]
        state["head.weight"] = torch.cat(halves, dim=1)
    if told["mlp"] == "swiglu":
        for layer, name in (("fc1", "weights_in"), ("fc2", "weights_out")):
            _rename(state, f".mlp.{layer}.", f".mlp.{name}.")


def _as_dinov3(state: Tensors, told: dict[str, Any]) -> None:
    """What DINOv3 has beside, in place, and its order of the numbers that rotate."""
    width = told["embed_dim"]
    state.setdefault("reg_token", torch.zeros(1, 0, width))
    state["mask_token"] = torch.zeros(1, 1, width)
    _add_scales(state, told)
    rearrange_rotary(state, told["num_heads"], Rotary(halves=True), back=True)
    if told["mlp"] == "swiglu":
        for name in [name for name in state if ".mlp.fc1." in name]:
            gate, up = state.pop(name).chunk(2)
            state[name.replace(".fc1.", ".gate_proj.")] = gate.clone()
            state[name.replace(".fc1.", ".up_proj.")] = up.clone()


def _as_pair(state: Tensors, portable: Portable) -> None:
    """What the image towers of CLIP and SigLIP have beside, in place."""
    told = portable.arguments
    width = told["embed_dim"]
    if told["pre_norm"]:
        move_patch_bias(state, portable.model.num_prefix_tokens)
    if not told["final_norm"]:  # CLIP's classifier does not use it, but has it
        state |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    for number in range(told["depth"]):
        state.setdefault(f"blocks.{number}.attn.qkv.bias", torch.zeros(3 * width))
    for end in ("weight", "bias") if told["global_pool"] == "map" else ():
        parts = [state.pop(f"attn_pool.{layer}.{end}") for layer in ("q", "kv")]
        state[f"attn_pool.qkv.{end}"] = torch.cat(parts)
    state["pos_embed"] = state["pos_embed"][0]
    if "cls_token" in state:
        state["cls_token"] = state["cls_token"].flatten()


def _add_scales(state: Tensors, told: dict[str, Any]) -> None:
    """LayerScale of ones, which changes nothing, where the model has none."""
    for number in range(told["depth"]):
        for layer in ("ls1", "ls2"):
            state.setdefault(f"blocks.{number}.{layer}.gamma", torch.ones(told["embed_dim"]))


def _rename(state: Tensors, part: str, replacement: str) -> None:
    for name in [name for name in state if part in name]:
        state[name.replace(part, replacement)] = state.pop(name)


def hugging_face_files(portable: Portable) -> dict[str, Any]:
    """config.json of the class of transformers, and preprocessor_config.json."""
    told, names = portable.arguments, portable.class_names
    config: dict[str, Any] = {"architectures": [class_of(told)], "model_type": _model_type(told)}
    tower = _tower_settings(portable)
    has_texts = kind_of(told) in ("clip", "siglip") and names  # settings that hold those of images
    config |= {"vision_config": tower} if has_texts else tower
    if names:
        config["id2label"] = {str(number): name for number, name in enumerate(names)}
        if portable.task.name == "multi_label":
            config["problem_type"] = MULTI_LABEL_PROBLEM
            config["thresholds"] = portable.task.told(len(names))["thresholds"]
        if portable.task.name == "regression":
            config["problem_type"] = "regression"
        config["label2id"] = {name: number for number, name in enumerate(names)}
    return {CONFIG_NAME: config, PROCESSOR_NAME: _processor(portable)}


def _tower_settings(portable: Portable) -> dict[str, Any]:
    told = portable.arguments
    settings = {
        "hidden_size": told["embed_dim"],
        "num_hidden_layers": told["depth"],
        "num_attention_heads": told["num_heads"],
        "intermediate_size": int(told["embed_dim"] * told["mlp_ratio"]),
        "hidden_act": ACTS[told["act"]],
        "layer_norm_eps": told["norm_eps"],
        "image_size": told["img_size"],
        "patch_size": told["patch_size"],
        "num_channels": told["in_chans"],
    }
    is_gated = told["mlp"] == "swiglu"
    match kind_of(told):
        case "vit":
            settings["qkv_bias"] = told["qkv_bias"]
            # of its masked-image head, which must equal it
            settings["encoder_stride"] = told["patch_size"]
        case "dinov2":
            del settings["intermediate_size"]
            settings |= {"qkv_bias": told["qkv_bias"], "mlp_ratio": dinov2_ratio(told)}
            settings["use_swiglu_ffn"] = is_gated
            settings |= {"num_register_tokens": told["reg_tokens"]} if told["reg_tokens"] else {}
        case "dinov3":
            biases = dict.fromkeys(("query_bias", "key_bias", "value_bias"), told["qkv_bias"])
            settings |= {**biases, "use_gated_mlp": is_gated, "rope_theta": told["rope_base"]}
            settings["num_register_tokens"] = told["reg_tokens"]
            settings |= {"hidden_act": "silu"} if is_gated else {}
        case "siglip":
            settings["vision_use_head"] = told["global_pool"] == "map"
    return settings


def _processor(portable: Portable) -> dict[str, Any]:
    """Settings of an image processor of transformers."""
    channels, height, width = portable.input_size
    return {
        **processor_settings(portable.framing, (height, width)),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": portable.mean,
        "image_std": portable.std,
        "do_convert_rgb": channels == 3,
    }
