"""Data leakage: whether images that are scored may have been trained on.

settings of the data now, and of the training -> a note, or an empty string
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitlit.data.image_folder import part_names

# The settings that decide which images are held out. val_fraction comes last: the test split does
# not depend on it.
SPLIT_SETTINGS = ("split_seed", "test_fraction", "val_fraction")


def data_identity(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What identifies the images: the name of the data set and, on disk, its paths."""
    if (name := str(settings.get("dataset"))) == "digits":
        return (name,)
    paths = [settings[key] for key in ("labels", "data_dir") if settings.get(key)]
    return name, *(str(Path(path).expanduser().absolute()) for path in paths)


def differing_setting(now: Mapping[str, Any], then: Mapping[str, Any], split: str) -> str | None:
    """The first setting that gives ``split`` other images now than then; None if none does.

    now, then: settings of the data. Other data sets have nothing in common, so the answer is None.
    """
    if data_identity(now) != data_identity(then):
        return None
    there = ("all",) if now.get("labels") else part_names(now["dataset"], Path(now["data_dir"]))
    if split in there:  # published: the settings do not matter
        return None
    names = SPLIT_SETTINGS[:2] if split == "test" else SPLIT_SETTINGS
    return next((name for name in names if name in then and then[name] != now[name]), None)


def seen_note(now: Mapping[str, Any], then: Mapping[str, Any], split: str) -> str:
    """Why the model may have been trained on the images of ``split``, or an empty string.

    now: settings of the data that are scored; then: settings of the data that it was trained on.
    """
    if split == "train":
        return "it was trained on these images" if data_identity(now) == data_identity(then) else ""
    name = differing_setting(now, then, split)
    if name is None:
        return ""
    return f"its {name} was {then[name]}: it may have been trained on these images"
