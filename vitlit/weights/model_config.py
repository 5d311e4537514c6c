"""Reads the settings beside weights: files in a model's folder, or metadata in a file.

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

# in the metadata of an exported safetensors file: JSON of arguments, mean, std, class_names
METADATA_KEY = "vitlit"
ACTIVATIONS = {  # names in settings -> ViT's; any other is refused, since outputs would be wrong
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",  # timm
    "gelu_new": "gelu_tanh",  # Hugging Face
    "gelu_pytorch_tanh": "gelu_tanh",
}
SIGLIP_GAP_MODELS = (
    r"base_patch32_siglip_gap_256|large_patch16_siglip_gap_512|so400m_patch16_siglip_gap_\d+"
)
# timm's architectures whose code sets what neither weights nor config.json show
UNUSUAL_MODELS = (
    (r"^test_vit2?$", {"num_heads": 2}),
    (r"^vit_base_patch16_gap_", {"num_heads": 16}),
    (r"^vit_giantopt_", {"num_heads": 16, "act": "gelu_tanh"}),
    (f"^vit_({SIGLIP_GAP_MODELS})$", {"act": "gelu_tanh"}),
)
# other architectures whose weights have the same names: they would load, and compute nonsense
LOOKALIKE_MODELS = r"rope|dinov3|_rpn_|^eva"


class Facts(NamedTuple):
    """The settings that a source tells; ``arguments`` are those of ViT among them."""

    arguments: dict[str, Any]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: list[str] | None = None


def metadata_facts(metadata: dict[str, str]) -> Facts | None:
    """The settings in a safetensors file that this package exported; None for any other file."""
    if METADATA_KEY not in metadata:
        return None
    told = _parsed(metadata[METADATA_KEY], "the metadata of the file")
    known = inspect.signature(ViT).parameters.keys()  # arguments of later versions are left out
    arguments = {name: v for name, v in _dict(told, "arguments").items() if name in known}
    names = _class_names(told.get("class_names"))
    return Facts(arguments, _numbers(told.get("mean")), _numbers(told.get("std")), names)


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


def _timm_facts(config: dict[str, Any]) -> Facts:
    settings = _dict(config, "pretrained_cfg") or config  # older files have it all on one level
    model = _dict(config, "model_args")
    architecture = str(config["architecture"]).partition(".")[0]
    if re.search(LOOKALIKE_MODELS, architecture):
        raise InputError(
            f"{architecture} has rotary positions or other blocks than this Vision Transformer; "
            f"give weights of another architecture"
        )
    size = settings.get("input_size")  # [channels, height, width]
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
            # what config.json says about this very model has priority
            arguments |= {k: v for k, v in unusual.items() if arguments[k] is None}
    names = _class_names(config.get("label_names", settings.get("label_names")))
    mean, std = _numbers(settings.get("mean")), _numbers(settings.get("std"))
    return Facts(_without_none(arguments), mean, std, names)


def _hugging_face_facts(config: dict[str, Any], processor: dict[str, Any]) -> Facts:
    arguments = {
        "img_size": _size(config.get("image_size")),
        "num_heads": _number("num_attention_heads", config.get("num_attention_heads"), int),
        "norm_eps": _number("layer_norm_eps", config.get("layer_norm_eps"), float),
        "act": _act(config.get("hidden_act")),
    }
    labels = _dict(config, "id2label")
    names = _class_names([labels.get(str(number)) for number in range(len(labels))])
    # transformers fills in these names if nobody gave any
    if names == [f"LABEL_{number}" for number in range(len(labels))]:
        names = None
    mean, std = _numbers(processor.get("image_mean")), _numbers(processor.get("image_std"))
    return Facts(_without_none(arguments), mean, std, names)


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
