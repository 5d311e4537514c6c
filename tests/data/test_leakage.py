"""What the settings of a checkpoint tell about images that it may have been trained on."""

from pathlib import Path
from typing import Any

import pytest
from photo_folder import PhotoFolder

from vitlit.data.datamodule import PlainImageData
from vitlit.data.leakage import differing_setting, seen_note, with_split_rule


def settings(root: Path, **changes: Any) -> dict[str, Any]:
    data = PlainImageData(dataset="folder", data_dir=str(root), img_size=8, patch_size=4, **changes)
    return dict(data.hparams)


def of_earlier_version(root: Path) -> dict[str, Any]:
    found = settings(root)
    del found["split_by"]
    return found


def test_checkpoints_of_earlier_versions_split_folders_by_position(
    photo_folder: PhotoFolder,
) -> None:
    assert with_split_rule(of_earlier_version(photo_folder()))["split_by"] == "position"


def test_checkpoints_of_other_sets_bring_no_rule_for_folders() -> None:
    assert with_split_rule({"dataset": "digits"})["split_by"] is None
    assert PlainImageData(patch_size=4, split_by="hash").hparams["split_by"] is None


def test_another_rule_gives_other_images(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    then = with_split_rule(of_earlier_version(root))
    assert differing_setting(settings(root), then, "test") == "split_by"
    assert differing_setting(settings(root, split_by="position"), then, "test") is None


def test_a_rule_that_a_config_leaves_open_is_that_of_the_checkpoint(
    photo_folder: PhotoFolder,
) -> None:
    then = settings(photo_folder())
    assert then["split_by"] == "hash"
    assert differing_setting(then | {"split_by": None}, then, "test") is None
    digits = dict(PlainImageData(patch_size=4).hparams)
    assert differing_setting(digits | {"split_by": "hash"}, digits, "test") is None


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_checkpoint_that_does_not_say_what_it_held_out_is_told(
    photo_folder: PhotoFolder, split: str
) -> None:
    root = photo_folder()
    then = with_split_rule(of_earlier_version(root))
    now = settings(root, split_by="position")
    assert "if images were added or removed since, it may have been" in seen_note(now, then, split)
    assert seen_note(now | {"data_dir": str(root.parent)}, then, split) == ""


def test_parts_of_their_own_need_no_word(photo_folder: PhotoFolder) -> None:
    now = settings(photo_folder("train+val+test"))
    assert seen_note(now, now, "test") == ""
    digits = dict(PlainImageData(patch_size=4).hparams)
    assert seen_note(digits, digits, "test") == ""
