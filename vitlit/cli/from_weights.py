"""Which settings a person gave, and where: what the source of the weights may not overrule.

words of a command line -> {name of a setting: the config file or the option that sets it}
"""

from pathlib import Path
from typing import Any

from vitlit.cli.configs import CONFIGS_FOLDER, find_config
from vitlit.cli.parser import flat_keys, keys_of
from vitlit.cli.safe_yaml import read_yaml
from vitlit.weights.pretrained import Weights, untold_statistics

CONFIG_FLAGS = ("--config", "-c")
DEBUG_CONFIG = (
    CONFIGS_FOLDER / "debug.yaml"
)  # its depth is for models that are trained from scratch
OFTEN_UNTOLD = {"num_heads": "model", "norm_eps": "model", "act": "model", "img_size": "data"}


def origins(args: list[str]) -> dict[str, str]:
    """The last place that sets each setting: the path of a config file, or ``--name``."""
    found: dict[str, str] = {}
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name in CONFIG_FLAGS:
            path = find_config(value if equals else following)
            found |= dict.fromkeys(flat_keys(read_yaml(path)), str(path))
        elif name.startswith("--"):
            words = [arg] if equals or following.startswith("--") else [arg, following]
            found |= {key: f"--{key}" for key in keys_of(words)}
    return found


def given_arguments(settings: Any, where: dict[str, str]) -> dict[str, Any]:
    """What the person gave of that which weights may not tell."""
    named = {name: group for name, group in OFTEN_UNTOLD.items() if f"{group}.{name}" in where}
    return {name: settings[group][name] for name, group in named.items()}


def small_depth(weights: Weights, where: dict[str, str]) -> list[str]:
    """The option that sets the depth of the weights in place of debug.yaml's."""
    place, depth = where.get("model.depth"), weights.arguments["depth"]
    if place is None or not _is_same_file(place, DEBUG_CONFIG):
        return []
    weights.notes.append(
        f"the depth of {DEBUG_CONFIG.name} is left out; the weights have {depth} blocks"
    )
    return [f"--model.depth={depth}"]


def _is_same_file(place: str, file: Path) -> bool:
    return not place.startswith("--") and Path(place).resolve() == file.resolve()


def note_statistics(weights: Weights, data: Any, where: dict[str, str]) -> None:
    """Note which mean and std are used, where neither weights nor person tell.

    data: the ImageData in use.
    """
    chosen = {"data.mean", "data.std", "data.normalize"} & where.keys()
    if weights.mean is None and not chosen:
        whose = "ImageNet's" if data.dataset == "folder" else f"those of {data.dataset}"
        weights.notes.append(untold_statistics(data.mean, data.std, whose))
