"""Reads the settings beside weights: files in a model's folder, or metadata in a file.

config.json, preprocessor_config.json or safetensors' metadata -> Facts
"""

import inspect
from pathlib import Path
from typing import Any

from vitlit.errors import InputError
from vitlit.images.published_framing import framing_of_processor, framing_of_words
from vitlit.model.vit import ViT
from vitlit.weights.config_values import (
    Facts,
    activation,
    dict_at,
    number_at,
    parsed,
    read_json,
    row_of_numbers,
    size_of_image,
    told_class_names,
    without_none,
)
from vitlit.weights.file_reader import CONFIG_NAME, PROCESSOR_NAME
from vitlit.weights.timm_config import timm_facts

# in the metadata of an exported safetensors file: JSON of arguments, mean, std, class_names
METADATA_KEY = "vitlit"
MULTI_LABEL_PROBLEM = "multi_label_classification"  # of a config.json of transformers
TASK_SETTINGS = ("task", "thresholds")  # of the model, that say what its outputs mean


def metadata_facts(metadata: dict[str, str]) -> Facts | None:
    """The settings in a safetensors file that this package exported; None for any other file."""
    if METADATA_KEY not in metadata:
        return None
    told = parsed(metadata[METADATA_KEY], "the metadata of the file")
    known = inspect.signature(ViT).parameters.keys()  # arguments of later versions are left out
    arguments = {name: v for name, v in dict_at(told, "arguments").items() if name in known}
    names = told_class_names(told.get("class_names"))
    mean, std = row_of_numbers(told.get("mean")), row_of_numbers(told.get("std"))
    task: dict[str, Any] = {}
    if "task" in told:  # later versions may write others, which the command line then refuses
        task = {"task": str(told["task"]), "thresholds": row_of_numbers(told.get("thresholds"))}
    return Facts(arguments, mean, std, names, framing=framing_of_words(told), task=task)


def folder_facts(folder: Path) -> Facts:
    """The settings in a model's folder, as timm or transformers writes it.

    Empty without a config.json. Raises InputError for another architecture or unreadable JSON.
    """
    if not (folder / CONFIG_NAME).is_file():
        return Facts({})
    config = read_json(folder / CONFIG_NAME)
    if "architecture" in config:  # timm's; transformers writes "architectures"
        return timm_facts(config)
    processor = folder / PROCESSOR_NAME
    return _hugging_face_facts(config, read_json(processor) if processor.is_file() else {})


def _hugging_face_facts(config: dict[str, Any], processor: dict[str, Any]) -> Facts:
    # settings of a model of images and texts hold those of the image tower inside
    config = config | dict_at(config, "vision_config")
    arguments = {
        "img_size": size_of_image(config.get("image_size")),
        "num_heads": number_at("num_attention_heads", config.get("num_attention_heads"), int),
        "norm_eps": number_at("layer_norm_eps", config.get("layer_norm_eps"), float),
        "act": activation(config.get("hidden_act")),
    }
    if config.get("model_type") == "dinov3_vit":
        arguments["rope_base"] = number_at("rope_theta", config.get("rope_theta"), float)
    if config.get("use_gated_mlp") is True and arguments.pop("act") != "silu":
        raise InputError(
            f"the weights have a gated MLP with activation {config['hidden_act']!r}; only silu is "
            f"supported"
        )
    labels = dict_at(config, "id2label")
    names = told_class_names([labels.get(str(number)) for number in range(len(labels))])
    # transformers fills in these names if nobody gave any
    if names == [f"LABEL_{number}" for number in range(len(labels))]:
        names = None
    mean, std = (
        row_of_numbers(processor.get("image_mean")),
        row_of_numbers(processor.get("image_std")),
    )
    framing, task = framing_of_processor(processor), dict[str, Any]()
    if config.get("problem_type") == MULTI_LABEL_PROBLEM:
        task = {"task": "multi_label", "thresholds": row_of_numbers(config.get("thresholds"))}
    if config.get("problem_type") == "regression" and len(labels) == 1:
        task = {"task": "regression"}
    return Facts(without_none(arguments), mean, std, names, None, framing, task)
