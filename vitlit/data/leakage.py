"""Whether images that are scored may have been trained on.

settings of the data now, and of the training -> a note, or nothing"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitlit.data.image_folder import part_names

SPLIT_SETTINGS = ("split_seed", "test_fraction", "val_fraction")  # who is held out


def data_identity(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What says which images there are: the data set and, of one on disk, where."""
    if (name := str(settings.get("dataset"))) == "digits":
        return (name,)
    paths = [settings[key] for key in ("labels", "data_dir") if settings.get(key)]
    return name, *(str(Path(path).expanduser().absolute()) for path in paths)


def differing_setting(now: Mapping[str, Any], then: Mapping[str, Any], split: str) -> str | None:
    """The setting by which a held-out split of the same images is another one, if it is.

    now, then: settings of the data.
    """
    if data_identity(now) != data_identity(then):
        return None
    there = ("all",) if now.get("labels") else part_names(now["dataset"], Path(now["data_dir"]))
    if split in there:  # as published, whatever the settings
        return None
    names = SPLIT_SETTINGS[:2] if split == "test" else SPLIT_SETTINGS
    return next((name for name in names if name in then and then[name] != now[name]), None)


def seen_note(now: Mapping[str, Any], then: Mapping[str, Any], split: str) -> str:
    """Why a model may have been trained on the images of a split, or nothing.

    now: settings of the data that are scored; then: of those that the model was trained on.
    """
    if split == "train":
        return "it was trained on these images" if data_identity(now) == data_identity(then) else ""
    name = differing_setting(now, then, split)
    if name is None:
        return ""
    return f"its {name} was {then[name]}: it may have been trained on these images"
