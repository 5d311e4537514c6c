"""Values of a model's settings, as JSON has them: each is checked, or left out.

JSON -> Facts; a name and its value -> an argument of ViT
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from vitlit.errors import InputError, first_few
from vitlit.images.framing import Framing
from vitlit.weights.file_reader import CONFIG_NAME
from vitlit.weights.reshaping import Rotary

ACTIVATIONS = {  # names in settings -> ViT's; any other is refused, since outputs would be wrong
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",  # timm
    "gelu_new": "gelu_tanh",  # Hugging Face
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "quickgelu": "quick_gelu",  # timm's class
    "silu": "silu",  # of gated MLPs, which have no other
}


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


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def read_json(path: Path) -> dict[str, Any]:
    try:
        return parsed(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text; it must be the JSON of a model") from error


def parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # the second: brackets nested too deeply
        raise InputError(f"{where} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} holds a {type(value).__name__}; it must be a JSON object")
    return value


def dict_at(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The dict at a name; an empty one if there is none, or something else."""
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def number_at(name: str, value: Any, kind: type[int] | type[float]) -> Any:
    """The value if it is a number of that kind or None; refuses any other."""
    allowed = int if kind is int else int | float
    # JSON's true is no number, but Python's bool is an int
    if value is None or (isinstance(value, allowed) and not isinstance(value, bool)):
        return value
    raise InputError(f"{name} {value!r} in {CONFIG_NAME} is not a number; fix the file")


def size_of_image(value: Any) -> int | list[int] | None:
    """An image size as ViT takes it; None if the value is not an image size."""
    sides = value if isinstance(value, list) else [value]
    # type() is int: isinstance would take true for 1
    is_size = len(sides) in (1, 2) and all(type(side) is int and side > 0 for side in sides)
    return (sides if len(sides) == 2 else sides[0]) if is_size else None


def row_of_numbers(value: Any) -> tuple[float, ...] | None:
    is_row = isinstance(value, list) and all(type(v) in (int, float) for v in value)
    return tuple(map(float, value)) if is_row else None


def told_class_names(value: Any) -> list[str] | None:
    is_row = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return list(value) if is_row else None


def known_class_names(facts: Facts, classes: int, notes: list[str]) -> list[str] | None:
    """The class names that the source tells; None if they do not fit its head."""
    names = facts.class_names
    if not names or not classes:
        return None
    if len(names) != classes:
        notes.append(
            f"{CONFIG_NAME} names {len(names)} classes ({first_few(names)}), but the head has "
            f"{classes}; the names are left out"
        )
        return None
    if len(set(names)) < classes:  # as "crane", bird and machine, in Hugging Face's of ImageNet
        notes.append("class names that occur twice are followed by their numbers")
        counts = Counter(names)
        names = [f"{n} ({i})" if counts[n] > 1 else n for i, n in enumerate(names)]
    return names


def activation(name: Any) -> str | None:
    if name is None:
        return None
    if isinstance(name, str) and name in ACTIVATIONS:
        return ACTIVATIONS[name]
    raise InputError(f"the weights use activation {name!r}; known: {', '.join(ACTIVATIONS)}")
