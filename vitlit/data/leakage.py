"""Data leakage: whether images that are scored may have been trained on.

settings of the data now, and of the training -> a note, or an empty string

This is what settings tell. Checkpoints of folders that the program itself divided tell it of each
image (``split_record``).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from vitlit.data.catalog import may_change
from vitlit.data.image_folder import part_names
from vitlit.data.shards.places import place_of, place_text
from vitlit.data.split_builder import SplitRule
from vitlit.data.split_record import SplitRecord
from vitlit.errors import check_choice

# The settings that decide which images are held out. val_fraction comes last: the test split does
# not depend on it.
SPLIT_SETTINGS = ("fold", "split_seed", "split_by", "test_fraction", "val_fraction")


class PastTraining(NamedTuple):
    """The training that a checkpoint comes from: its settings of the data, and its split record."""

    data: Mapping[str, Any]
    record: SplitRecord


def data_identity(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What identifies the images: the name of the data set and, on disk, its paths."""
    if (name := str(settings.get("dataset"))) == "digits":
        return (name,)
    paths = [settings[key] for key in ("labels", "data_dir") if settings.get(key)]
    return name, *(place_text(place_of(path)) for path in paths)


def with_split_rule(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a checkpoint's data with the rule that divided a folder.

    Earlier versions knew one rule and did not name it, nor any folds.
    """
    rule = "position" if settings.get("dataset") == "folder" else None
    return {"split_by": rule, "fold": None, **settings}


def split_rule(settings: Mapping[str, Any]) -> str | None:
    """The rule that divides a folder; None for other sets, which are split by position.

    Raises InputError for an unknown rule.
    """
    rule = settings.get("split_by") or "hash"
    check_choice(get_args(SplitRule), split_by=rule)
    return rule if may_change(str(settings["dataset"])) else None


def is_divided(settings: Mapping[str, Any], split: str) -> bool:
    """Whether the program itself chooses the images of ``split``: it is no published part."""
    if settings.get("labels"):
        return True
    return split not in part_names(settings["dataset"], place_of(settings["data_dir"]))


def differing_setting(now: Mapping[str, Any], then: Mapping[str, Any], split: str) -> str | None:
    """The first setting that gives ``split`` other images now than then; None if none does.

    now, then: settings of the data. Other data sets have nothing in common, so the answer is None.
    """
    if data_identity(now) != data_identity(then):
        return None
    if not is_divided(now, split):  # published: the settings do not matter
        return None
    names = SPLIT_SETTINGS[:-1] if split == "test" else SPLIT_SETTINGS
    # A config may say null, where the checkpoint has the rule that this stands for.
    now = {**now, "split_by": split_rule(now)}
    return next((name for name in names if name in then and then[name] != now[name]), None)


def seen_note(now: Mapping[str, Any], then: Mapping[str, Any], split: str) -> str:
    """Why the model may have been trained on the images of ``split``, or an empty string.

    now: settings of the data that are scored; then: settings of the data that it was trained on, of
    a checkpoint without a record of its splits.
    """
    if split == "train":
        return "it was trained on these images" if data_identity(now) == data_identity(then) else ""
    name = differing_setting(now, then, split)
    if name is not None:
        return f"its {name} was {then[name]}: it may have been trained on these images"
    if not may_have_shifted(now, then, split):
        return ""
    return (
        "it does not record which images it held out: if images were added or removed since, it "
        "may have been trained on some of these"
    )


def may_have_shifted(now: Mapping[str, Any], then: Mapping[str, Any], split: str) -> bool:
    """Whether images that came or went may have moved others into ``split`` since the training.

    That is so for folders that a checkpoint without a record of its splits divided.
    """
    is_same_folder = now["dataset"] in ("folder", "shards") and data_identity(now) == data_identity(
        then
    )
    return is_same_folder and is_divided(now, split)
