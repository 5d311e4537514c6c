"""Reads the settings beside weights: files in a model's folder, or metadata in a file.

config.json, preprocessor_config.json or safetensors' metadata -> Facts
"""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from vitlit.errors import InputError
from vitlit.images.framing import Framing
from vitlit.images.published_framing import (
    framing_of_processor,
    framing_of_timm,
    framing_of_words,
)
from vitlit.model.vit import ViT
from vitlit.weights.file_reader import CONFIG_NAME, PROCESSOR_NAME
from vitlit.weights.reshaping import Rotary

# in the metadata of an exported safetensors file: JSON of arguments, mean, std, class_names
METADATA_KEY = "vitlit"
MULTI_LABEL_PROBLEM = "multi_label_classification"  # of a config.json of transformers
TASK_SETTINGS = ("task", "thresholds")  # of the model, that say what its outputs mean
ACTIVATIONS = {  # names in settings -> ViT's; any other is refused, since outputs would be wrong
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",  # timm
    "gelu_new": "gelu_tanh",  # Hugging Face
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "quickgelu": "quick_gelu",  # timm's class
    "silu": "silu",  # of gated MLPs, which have no other
}


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
    (r"_rope_mixed_", "learns the frequencies of its rotary positions"),
    (r"relpos_", "computes a bias of the attention from relative positions"),
    (r"^vit_d?pwee_|_xp_|_18x2_", "runs attention and MLP side by side"),
    (r"enormous_patch14_clip", "normalises after attention and MLP"),
    (r"sapiens2", "shares keys and values among heads"),
    (r"naflex|gemma4", "takes images of any grid"),
    (r"_r26_|_r50_|resnet|_rn50", "has a ResNet before its blocks"),
)


class TimmModel(NamedTuple):
    """Arguments of ViT that an architecture has, and the layout of its rotary positions."""

    arguments: dict[str, Any]
    rotary: Rotary | None = None


class Facts(NamedTuple):
    """The settings that a source tells; ``arguments`` are those of ViT among them.

    rotary: the layout of rotary positions, None if there are none; framing: how images were fitted;
    task: settings that say what the outputs mean.
    """

    arguments: dict[str, Any]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: list[str] | None = None
    rotary: Rotary | None = None
    framing: Framing | None = None
    task: Mapping[str, Any] = MappingProxyType({})


def metadata_facts(metadata: dict[str, str]) -> Facts | None:
    """The settings in a safetensors file that this package exported; None for any other file."""
    if METADATA_KEY not in metadata:
        return None
    told = _parsed(metadata[METADATA_KEY], "the metadata of the file")
    known = inspect.signature(ViT).parameters.keys()  # arguments of later versions are left out
    arguments = {name: v for name, v in _dict(told, "arguments").items() if name in known}
    names = _class_names(told.get("class_names"))
    mean, std = _numbers(told.get("mean")), _numbers(told.get("std"))
    task: dict[str, Any] = {}
    if "task" in told:  # later versions may write others, which the command line then refuses
        task = {"task": str(told["task"]), "thresholds": _numbers(told.get("thresholds"))}
    return Facts(arguments, mean, std, names, framing=framing_of_words(told), task=task)


def folder_facts(folder: Path) -> Facts:
    """The settings in a model's folder, as timm or transformers writes it.

    Empty without a config.json. Raises InputError for another architecture or unreadable JSON.
    """
    if not (folder / CONFIG_NAME).is_file():
        return Facts({})
    config = _read_json(folder / CONFIG_NAME)
    if "architecture" in config:  # timm's; transformers writes "architectures"
        return _timm_facts(config)
    processor = folder / PROCESSOR_NAME
    return _hugging_face_facts(config, _read_json(processor) if processor.is_file() else {})


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


def _timm_facts(config: dict[str, Any]) -> Facts:
    settings = _dict(config, "pretrained_cfg") or config  # older files have it all on one level
    model = _dict(config, "model_args")
    usual = timm_model(str(config["architecture"]).partition(".")[0])
    size = settings.get("input_size")  # [channels, height, width]
    arguments = {
        "img_size": _size(model.get("img_size", size[1:] if isinstance(size, list) else None)),
        "num_heads": _number("num_heads", model.get("num_heads"), int),
        "global_pool": config.get("global_pool"),
        "act": _act(model.get("act_layer")),
        "pos_embed": model.get("pos_embed"),
        "init_values": _number("init_values", model.get("init_values"), float),
        **_eva_arguments(model),
    }
    rotary = usual.rotary
    if isinstance(halves := model.get("rope_rotate_half"), bool):
        rotary = (rotary or Rotary())._replace(halves=halves)
    # what config.json says about this very model has priority, if it says none too
    usual_arguments = {n: v for n, v in usual.arguments.items() if n not in _denied(model)}
    arguments = usual_arguments | _without_none(arguments)
    names = _class_names(config.get("label_names", settings.get("label_names")))
    mean, std = _numbers(settings.get("mean")), _numbers(settings.get("std"))
    return Facts(arguments, mean, std, names, rotary, framing_of_timm(settings))


def _eva_arguments(model: dict[str, Any]) -> dict[str, Any]:
    """The arguments of timm's Eva that its weights do not show, under ViT's names."""
    told = {
        "rope_base": _number("rope_temperature", model.get("rope_temperature"), float),
        "rope_offset": _number("rope_grid_offset", model.get("rope_grid_offset"), float),
        "rope_grid": _size(model.get("ref_feat_shape")),
        "pool_heads": _number("attn_pool_num_heads", model.get("attn_pool_num_heads"), int),
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


def _hugging_face_facts(config: dict[str, Any], processor: dict[str, Any]) -> Facts:
    # settings of a model of images and texts hold those of the image tower inside
    config = config | _dict(config, "vision_config")
    arguments = {
        "img_size": _size(config.get("image_size")),
        "num_heads": _number("num_attention_heads", config.get("num_attention_heads"), int),
        "norm_eps": _number("layer_norm_eps", config.get("layer_norm_eps"), float),
        "act": _act(config.get("hidden_act")),
    }
    if config.get("model_type") == "dinov3_vit":
        arguments["rope_base"] = _number("rope_theta", config.get("rope_theta"), float)
    if config.get("use_gated_mlp") is True and arguments.pop("act") != "silu":
        raise InputError(
            f"the weights have a gated MLP with activation {config['hidden_act']!r}; only silu is "
            f"supported"
        )
    labels = _dict(config, "id2label")
    names = _class_names([labels.get(str(number)) for number in range(len(labels))])
    # transformers fills in these names if nobody gave any
    if names == [f"LABEL_{number}" for number in range(len(labels))]:
        names = None
    mean, std = _numbers(processor.get("image_mean")), _numbers(processor.get("image_std"))
    framing, task = framing_of_processor(processor), dict[str, Any]()
    if config.get("problem_type") == MULTI_LABEL_PROBLEM:
        task = {"task": "multi_label", "thresholds": _numbers(config.get("thresholds"))}
    if config.get("problem_type") == "regression" and len(labels) == 1:
        task = {"task": "regression"}
    return Facts(_without_none(arguments), mean, std, names, None, framing, task)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text; it must be the JSON of a model") from error


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # the second: brackets nested too deeply
        raise InputError(f"{where} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} holds a {type(value).__name__}; it must be a JSON object")
    return value


def _dict(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The dict at a name; an empty one if there is none, or something else."""
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def _number(name: str, value: Any, kind: type[int] | type[float]) -> Any:
    """The value if it is a number of that kind or None; refuses any other."""
    allowed = int if kind is int else int | float
    # JSON's true is no number, but Python's bool is an int
    if value is None or (isinstance(value, allowed) and not isinstance(value, bool)):
        return value
    raise InputError(f"{name} {value!r} in {CONFIG_NAME} is not a number; fix the file")


def _size(value: Any) -> int | list[int] | None:
    """An image size as ViT takes it; None if the value is not an image size."""
    sides = value if isinstance(value, list) else [value]
    # type() is int: isinstance would take true for 1
    is_size = len(sides) in (1, 2) and all(type(side) is int and side > 0 for side in sides)
    return (sides if len(sides) == 2 else sides[0]) if is_size else None


def _numbers(value: Any) -> tuple[float, ...] | None:
    is_row = isinstance(value, list) and all(type(v) in (int, float) for v in value)
    return tuple(map(float, value)) if is_row else None


def _class_names(value: Any) -> list[str] | None:
    is_row = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return list(value) if is_row else None


def _act(name: Any) -> str | None:
    if name is None:
        return None
    if isinstance(name, str) and name in ACTIVATIONS:
        return ACTIVATIONS[name]
    raise InputError(f"the weights use activation {name!r}; known: {', '.join(ACTIVATIONS)}")
