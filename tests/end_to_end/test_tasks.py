"""Several classes, or a number, for each image: killed trainings, and two processes."""

import csv
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed_run import KillOnce, killed_after, last, saved
from pair import Command, run_pair
from PIL import Image
from processes import VITLIT, environment, free_port
from recorder import RECORDED, losses_in
from sklearn.datasets import load_digits
from trainings import QUIET, SMALL, STATE, same

from vitlit.__main__ import main
from vitlit.weights.checkpoint import MODEL_KEY

pytestmark = pytest.mark.slow

IMAGES = 57  # of which 11 validate and 11 test: with two processes, one has a row too many
DATA = ["--data.dataset=folder", "--data.img_size=8", "--data.in_chans=1"]
DATA += ["--data.val_fraction=0.25", "--model.patch_size=4"]
FIT = ["fit", "--run=a", *DATA, *SMALL, *QUIET, "--trainer.max_epochs=3", "--model.lr=0.01"]
FIT += ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
# of each task: its file of labels, and settings in which it differs from others
LABELS = {"multi_label": "classes.csv", "regression": "numbers.csv"}
OWN = {
    "multi_label": ["--model.class_weights=balanced", "--model.label_smoothing=0.1"],
    "regression": ["--model.loss=huber"],
}
LEARNED = {"multi_label": ["thresholds"], "regression": ["target_mean", "target_std"]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as files, beside both files of labels: what is true of a digit, and its ink."""
    folder = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    classes, numbers = [["file", "classes"]], [["file", "target"]]
    for i, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        if i == IMAGES:
            break
        file = f"{i:02}.png"
        Image.fromarray(np.round(pixels * 255 / 16).astype(np.uint8)).save(folder / file)
        truths = {"even": digit % 2 == 0, "large": digit > 4, "loop": digit in (0, 6, 8, 9)}
        classes.append([file, ";".join(name for name, is_so in truths.items() if is_so)])
        numbers.append([file, str((pixels > 7).sum())])
    for name, rows in (("classes.csv", classes), ("numbers.csv", numbers)):
        with (folder / name).open("w", newline="") as table:
            csv.writer(table).writerows(rows)
    return folder


def fit_words(task: str, photos: Path) -> list[str]:
    own = [f"--data.data_dir={photos}", f"--data.labels={photos / LABELS[task]}"]
    return [*FIT, *own, *OWN[task]]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes that tests start; sums of several threads differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.faults
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("task", LABELS)
def test_a_killed_training_goes_on_within_its_epoch_bit_for_bit(
    task: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*fit_words(task, photos), "--data.batch_size=4", "--data.mixup=0.3"]
    words += ["--model.drop_path_rate=0.1", "--ema.decay=0.9"]
    words += ["--checkpoints.every_n_steps=3", *killed_after(14)]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    for folder in (cut, whole):
        folder.mkdir()
    command = [VITLIT, *words]
    ended = subprocess.run(
        command, cwd=cut, env=environment(), capture_output=True, check=False, timeout=600
    )
    assert ended.returncode == -signal.SIGKILL
    before = saved(cut)
    assert (before["position"]["epoch"], before["position"]["batch"] > 0) == (1, True)
    for name in LEARNED[task]:  # from the images, or the validation before
        assert before[MODEL_KEY][name] is not None
    (whole / KillOnce.MARK).touch()
    for folder in (cut, whole):
        monkeypatch.chdir(folder)
        assert main(words) == 0  # the same words
    found, expected = saved(cut), saved(whole)
    assert expected["global_step"] > before["global_step"]
    for name in (*STATE, MODEL_KEY):
        assert same(found.get(name), expected.get(name)), name
    assert rows_of(cut) == rows_of(whole)


def rows_of(folder: Path) -> list[dict[str, float]]:
    """The history of a training, without the time that it took."""
    with (last(folder).parents[1] / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(row[name]) for name in row if name != "seconds"} for row in rows]


TEST = ["test", "--ckpt_path=last", "--trainer.accelerator=cpu", "--data.batch_size=4", *QUIET]
DDP = ["--trainer.strategy=ddp", "--trainer.devices=2"]


@pytest.fixture(scope="module")
def pair(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each task, in which two processes have trained and tested."""
    folder = tmp_path_factory.mktemp("pair")
    commands = {}
    for task in LABELS:
        (folder / task).mkdir()
        fit = [*fit_words(task, photos), *RECORDED, "--data.batch_size=4", *DDP]
        commands[f"{task} fit"] = Command(fit, str(folder / task))
        commands[f"{task} test"] = Command([*TEST, *DDP, "--out=report"], str(folder / task))
    run_pair(commands, folder, environment(), [free_port() for _ in commands])
    return folder


def report_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report" / "metrics.json").read_text())
    return found


@pytest.mark.parametrize("task", LABELS)
def test_two_processes_train_and_score_as_one(
    task: str, photos: Path, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*fit_words(task, photos), *RECORDED, "--data.batch_size=8"]) == 0
    assert main([*TEST, "--out=report"]) == 0
    two = pair / task
    torch.testing.assert_close(losses_in(two, 2), losses_in(tmp_path, 1), rtol=1e-5, atol=1e-6)
    for found, expected in zip(rows_of(two), rows_of(tmp_path), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name in LEARNED[task]:
        settings = (saved(folder)[MODEL_KEY][name] for folder in (two, tmp_path))
        assert next(settings) == pytest.approx(next(settings), abs=1e-4)
    found, expected = report_in(two), report_in(tmp_path)
    assert expected["scores"]["images"] == 11
    for name, value in expected["scores"].items():
        assert found["scores"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert found.get("classes", {}).keys() == expected.get("classes", {}).keys()
    for name, one in expected.get("classes", {}).items():
        assert found["classes"][name] == pytest.approx(one, abs=1e-4), name
