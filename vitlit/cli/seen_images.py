"""What the model that a command starts from has seen: held-out images stay held out.

the training that it comes from, settings of the data now -> a note for the scores, lines, warnings
"""

from typing import Any

from vitlit.data.leakage import PastTraining, differing_setting, may_have_shifted, seen_note
from vitlit.errors import inform, warn

SCORED_SPLITS = {"validate": "val", "probe": "test"}  # by command; others ask for one
SCORING_COMMANDS = ("test", "validate", "probe")


def tell_seen(past: PastTraining, data: Any, command: str, source: object) -> str:
    """Warn if images that are scored may be among those that the model was trained on.

    data: settings of the command; source: what the model comes from. Returns the note on it for
    the report, or an empty string.
    """
    if command not in SCORING_COMMANDS or data["images"]:
        return ""
    split = SCORED_SPLITS.get(command, data["split"])
    note = ""
    if split == "train" or not past.record:
        note = seen_note(data, past.data, split)
    else:
        _tell_kept_split(past, data, split, source)
    if note and split != "train":  # scores of train are called train/acc: no surprise
        warn(f"{source}: {note}")
    return note


def tell_seen_before(past: PastTraining, data: Any, source: object) -> None:
    """Say whether a training that starts from weights holds out what theirs held out.

    source: the weights; data: settings of the training to come.
    """
    name = differing_setting(data, past.data, "test") or differing_setting(data, past.data, "val")
    if past.record:
        _tell_kept_split(past, data, "val", source)
    elif name is not None:
        warn(
            f"{source}: its {name} was {past.data[name]}, so it may have been trained on images "
            f"that are held out now, and scores may be too high; give --data.{name} "
            f"{past.data[name]}"
        )
    elif may_have_shifted(data, past.data, "val"):
        warn(
            f"{source} does not record which images it held out: if images were added or removed "
            f"since, it may have been trained on some that are held out now"
        )


def _tell_kept_split(past: PastTraining, data: Any, split: str, source: object) -> None:
    if name := differing_setting(data, past.data, split):  # ImageData.hold_to decides
        inform(
            f"{name} {data[name]} has no effect: the images that {source} held out, with "
            f"{name} {past.data[name]}, stay held out"
        )
