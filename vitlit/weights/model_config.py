"""What stands beside weights in words: settings in a model's folder or in a file's metadata.

config.json, preprocessor_config.json or safetensors' metadata -> Facts
"""

import inspect
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from vitlit.errors import InputError
from vitlit.model.vit import ViT
from vitlit.weights.file_reader import CONFIG_NAME, PROCESSOR_NAME

METADATA_KEY = (
    "vitlit"  # of an exported safetensors file: JSON of arguments, mean, std, class_names
)
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",  # timm
    "gelu_new": "gelu_tanh",  # Hugging Face
    "gelu_pytorch_tanh": "gelu_tanh",
}
SIGLIP_GAP_MODELS = (
    r"base_patch32_siglip_gap_256|large_patch16_siglip_gap_512|so400m_patch16_siglip_gap_\d+"
)
UNUSUAL_MODELS = (  # timm's architectures whose weights do not show all that they compute
    (r"^test_vit2?$", {"num_heads": 2}),
    (r"^vit_base_patch16_gap_", {"num_heads": 16}),
    (r"^vit_giantopt_", {"num_heads": 16, "act": "gelu_tanh"}),
    (f"^vit_({SIGLIP_GAP_MODELS})$", {"act": "gelu_tanh"}),
)
LOOKALIKE_MODELS = (
    r"rope|dinov3|_rpn_|^eva"  # of other architectures whose weights have the same names
)


class Facts(NamedTuple):
    """What a source tells in words; ``arguments`` are ViT's, as far as they are told."""

    arguments: dict[str, Any]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: list[str] | None = None


def metadata_facts(metadata: dict[str, str]) -> Facts | None:
    """Of a safetensors file that this package exported; None for any other."""
    if METADATA_KEY not in metadata:
        return None
    told = _parsed(metadata[METADATA_KEY], "the metadata of the file")
    known = inspect.signature(ViT).parameters.keys()
    arguments = {name: v for name, v in _dict(told, "arguments").items() if name in known}
    names = _class_names(told.get("class_names"))
    return Facts(arguments, _numbers(told.get("mean")), _numbers(told.get("std")), names)


def folder_facts(folder: Path) -> Facts:
    """Of a model's folder as timm or transformers writes it; nothing without a config.json."""
    if not (folder / CONFIG_NAME).is_file():
        return Facts({})
    config = _read_json(folder / CONFIG_NAME)
    if "architecture" in config:
        return _timm_facts(config)
    processor = folder / PROCESSOR_NAME
    return _hugging_face_facts(config, _read_json(processor) if processor.is_file() else {})


def _timm_facts(config: dict[str, Any]) -> Facts:
    settings = _dict(config, "pretrained_cfg") or config
    model = _dict(config, "model_args")
    architecture = str(config["architecture"]).partition(".")[0]
    if re.search(LOOKALIKE_MODELS, architecture):
        raise InputError(
            f"{architecture} has rotary positions or other blocks than this Vision Transformer; "
            f"give weights of another architecture"
        )
    size = settings.get("input_size")
    arguments = {
        "img_size": _size(model.get("img_size", size[1:] if isinstance(size, list) else None)),
        "num_heads": _number("num_heads", model.get("num_heads"), int),
        "global_pool": config.get("global_pool"),
        "act": _act(model.get("act_layer")),
        "pos_embed": model.get("pos_embed"),
        "init_values": _number("init_values", model.get("init_values"), float),
    }
    for pattern, unusual in UNUSUAL_MODELS:
        if re.search(pattern, architecture):
            arguments |= {k: v for k, v in unusual.items() if arguments[k] is None}
    names = _class_names(config.get("label_names", settings.get("label_names")))
    mean, std = _numbers(settings.get("mean")), _numbers(settings.get("std"))
    return Facts(_told(arguments), mean, std, names)


def _hugging_face_facts(config: dict[str, Any], processor: dict[str, Any]) -> Facts:
    arguments = {
        "img_size": _size(config.get("image_size")),
        "num_heads": _number("num_attention_heads", config.get("num_attention_heads"), int),
        "norm_eps": _number("layer_norm_eps", config.get("layer_norm_eps"), float),
        "act": _act(config.get("hidden_act")),
    }
    labels = _dict(config, "id2label")
    names = _class_names([labels.get(str(number)) for number in range(len(labels))])
    if names == [f"LABEL_{number}" for number in range(len(labels))]:  # never named
        names = None
    mean, std = _numbers(processor.get("image_mean")), _numbers(processor.get("image_std"))
    return Facts(_told(arguments), mean, std, names)


def _told(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text; it must be the JSON of a model") from error


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} holds a {type(value).__name__}; it must be a JSON object")
    return value


def _dict(values: dict[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def _number(name: str, value: Any, kind: type[int] | type[float]) -> Any:
    allowed = int if kind is int else int | float
    if value is None or (isinstance(value, allowed) and not isinstance(value, bool)):
        return value
    raise InputError(f"{name} {value!r} in {CONFIG_NAME} is not a number; mend the file")


def _size(value: Any) -> int | list[int] | None:
    """An image size as ViT takes it; None for what is none."""
    sides = value if isinstance(value, list) else [value]
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
    raise InputError(f"the weights use the activation {name!r}; known: {', '.join(ACTIVATIONS)}")
