"""``vitlit pretrain`` in processes of its own: killed, and two of them."""

import csv
import subprocess
from pathlib import Path

import pytest
import torch
from killed_run import kill_once_saved, last, saved
from processes import VITLIT, environment
from trainings import QUIET, SMALL, STATE, same

pytestmark = pytest.mark.slow

PRETRAIN = [VITLIT, "pretrain", "--config=digits_pretrain.yaml", "--trainer.accelerator=cpu"]
PRETRAIN += [*QUIET, *SMALL, "--model.schedule=constant", "--model.warmup_fraction=0"]


def pretrain(folder: Path, *words: str) -> None:
    folder.mkdir(exist_ok=True)
    command = [*PRETRAIN, "--run=a", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_killed_pretraining_goes_on_bit_for_bit(tmp_path: Path) -> None:
    words = ["--model.drop_path_rate=0.1", "--ema.decay=0.9", "--checkpoints.every_n_steps=3"]
    kill_once_saved([*PRETRAIN, "--run=a", *words, "--trainer.max_epochs=10000"], tmp_path)
    steps = int(saved(tmp_path)["global_step"]) + 7
    words += ["--trainer.max_epochs=10000", f"--trainer.max_steps={steps}"]
    pretrain(tmp_path, *words)
    pretrain(tmp_path / "whole", *words)
    for name in STATE:
        assert same(saved(tmp_path).get(name), saved(tmp_path / "whole").get(name)), name


def losses(folder: Path) -> list[tuple[float, float]]:
    with (last(folder).parents[1] / "history.csv").open(newline="") as file:
        return [(float(r["train/loss_epoch"]), float(r["val/loss"])) for r in csv.DictReader(file)]


def test_two_processes_pretrain_as_one(tmp_path: Path) -> None:
    words = ["--trainer.max_epochs=2", "--model.global_pool=map", "--trainer.precision=32-true"]
    pretrain(tmp_path / "one", *words, "--data.batch_size=32")
    two = ["--data.batch_size=16", "--trainer.strategy=ddp", "--trainer.devices=2"]
    pretrain(tmp_path / "two", *words, *two)
    found, expected = losses(tmp_path / "two"), losses(tmp_path / "one")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
