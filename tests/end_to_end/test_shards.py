"""Shards through the commands: trained on, scored, predicted; killed, and by two processes."""

import csv
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from killed_run import PATIENCE, kill_once_saved, last, saved
from photo_folder import PhotoFolder
from processes import VITLIT, environment
from shard_sets import shard
from trainings import QUIET, SMALL, STATE, same

from vitlit.__main__ import main

SIZES = ["--data.img_size=8", "--model.patch_size=4", "--trainer.accelerator=cpu"]
FIT = ["fit", "--data.dataset=shards", "--data.batch_size=4", "--run=a", *SIZES, *SMALL, *QUIET]
FIT += ["--data.shuffle_shards=2", "--model.schedule=constant", "--model.warmup_fraction=0"]


def test_a_set_of_shards_goes_through_the_commands(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = shard(photo_folder(count=12), tmp_path / "s", "--images=5")
    words = [f"--data.data_dir={place}", "--trainer.max_epochs=1", "--data.num_workers=0"]
    assert main([*FIT, *words]) == 0
    assert main(["test", "--run=a", "--trainer.accelerator=cpu", *QUIET]) == 0
    images = [f"--data.images={json.dumps([str(place)])}", "--out=p.csv"]
    assert main(["predict", "--run=a", *images, "--trainer.accelerator=cpu", *QUIET]) == 0
    with Path("p.csv").open(newline="") as file:
        rows = [row["file"] for row in csv.DictReader(file)]
    assert len({*rows}) == len(rows) == 24
    assert all("s/all-00000" in row for row in rows)


def history(folder: Path) -> list[dict[str, str]]:
    with (last(folder).parents[1] / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def fit(folder: Path, *words: str) -> None:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [VITLIT, *FIT, *words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_training_goes_on_within_its_epoch_bit_for_bit(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    place = shard(photo_folder("train+val", count=40), tmp_path / "s", "--images=9")
    words = [f"--data.data_dir={place}", "--checkpoints.every_n_steps=3", "--data.num_workers=2"]
    endless = "--trainer.max_epochs=10000"
    kill_once_saved([VITLIT, *FIT, *words, endless], tmp_path)
    steps = int(saved(tmp_path)["global_step"]) + 7
    words += [endless, f"--trainer.max_steps={steps}"]
    fit(tmp_path, *words)
    fit(tmp_path / "whole", *words)
    for name in STATE:
        assert same(saved(tmp_path).get(name), saved(tmp_path / "whole").get(name)), name


@pytest.mark.slow
def test_two_processes_train_as_one_and_count_every_image_once(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    place = shard(photo_folder("train+val", count=21), tmp_path / "s", "--images=10")
    words = [f"--data.data_dir={place}", "--trainer.max_epochs=2", "--trainer.precision=32-true"]
    fit(tmp_path / "one", *words, "--data.num_workers=2")
    ddp = ["--trainer.strategy=ddp", "--trainer.devices=2"]
    fit(tmp_path / "two", *words, *ddp, "--data.batch_size=2", "--data.num_workers=0")
    one, two = (history(tmp_path / name) for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):  # the mean over all images, each counted once
        for name in ("train/loss_epoch", "val/loss"):
            assert float(first[name]) == pytest.approx(float(second[name]), abs=2e-5)
    predict = ["predict", "--run=a", f"--data.images={json.dumps([str(place)])}", "--out=p.csv"]
    subprocess.run(
        [VITLIT, *predict, "--trainer.accelerator=cpu", *QUIET, *ddp],
        cwd=tmp_path / "two",
        env=environment(),
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    with (tmp_path / "two" / "p.csv").open(newline="") as file:
        counts = Counter(row["file"] for row in csv.DictReader(file))
    assert len(counts) == 84
    assert set(counts.values()) == {1}
