"""Lightning's way to checkpoint files, over those with a checksum."""

import shutil
from pathlib import Path

import pytest

from vitlit.training.checkpoint_io import DurableIO


def test_a_folder_that_was_removed_meanwhile_is_made_again_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saving, file = DurableIO(), tmp_path / "run" / "a.ckpt"
    for _ in range(2):
        saving.save_checkpoint({}, file)
    assert "removed" not in caplog.text
    shutil.rmtree(file.parent)
    saving.save_checkpoint({}, file)
    assert "run was removed during the training; it is created again for a.ckpt" in caplog.text
    assert file.is_file()
