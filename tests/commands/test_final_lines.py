"""What a training says at its end: true also where it ended early, or lost its folder."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from trainings import QUIET, RUN, SMALL

from vitlit.__main__ import main
from vitlit.training.checkpoint_callbacks import LastCheckpoint

LONG = ["fit", "--config=digits.yaml", "--trainer.accelerator=cpu", *QUIET, *SMALL, "--run=a"]
CHECKPOINTS = Path("lightning_logs", "a", "checkpoints")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_a_training_shorter_than_an_epoch_says_that_it_was_not_validated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*LONG, "--trainer.max_steps=2", "--trainer.max_epochs=9"]) == 0
    out = capsys.readouterr().out
    assert "validated   not in this command: the training ended at step 2, before a" in out
    assert "reached" not in out
    assert f"next        vitlit test --ckpt_path {CHECKPOINTS / 'last.ckpt'}" in out
    assert (CHECKPOINTS / "last.ckpt").is_file()


def test_a_time_limit_that_is_used_up_is_named_by_the_command_that_would_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    limited = [*LONG, "--trainer.max_time=00:00:00:01", "--trainer.max_epochs=100000"]
    for _ in range(2):
        assert main(limited) == 0
        out = capsys.readouterr().out
        words = r"ended       by --trainer\.max_time, after 1 second of training in"
        assert re.search(words, " ".join(out.split()).replace("ended by", "ended       by"))
    more = ["--trainer.max_time=00:01:00:00", "--trainer.max_steps=1"]
    assert main([*LONG[:-1], "--run=b", *more]) == 0
    assert "max_time" not in capsys.readouterr().out


def test_a_run_that_is_removed_while_it_trains_says_so_and_keeps_its_weights(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    save = LastCheckpoint.on_train_epoch_end

    def remove_and_save(self: LastCheckpoint, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 2:  # the last one
            shutil.rmtree(CHECKPOINTS.parent)
        save(self, trainer, module)

    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", remove_and_save)
    assert main([*RUN, "--run=a", "--trainer.max_epochs=3"]) == 0
    assert "checkpoints was removed during the training; it is created again" in caplog.text
    out = capsys.readouterr().out
    assert f"removed     {CHECKPOINTS / 'best.ckpt'}" in out
    assert f"next        vitlit test --ckpt_path {CHECKPOINTS / 'last.ckpt'}" in out
    assert [path.name for path in CHECKPOINTS.iterdir()] == ["last.ckpt"]


def test_an_older_score_is_not_called_that_of_the_final_epoch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    every = ["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"]
    assert main([*LONG, *every, "--trainer.limit_train_batches=2"]) == 0
    assert " in epoch 2, the last validated" in " ".join(capsys.readouterr().out.split())
