"""What a training says in a file: one summary, one line for each epoch, and nothing else."""

import csv
import logging
import re
import shlex
import signal
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from photo_folder import PhotoFolder
from pytorch_lightning.plugins.precision import Precision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from trainings import SMALL

from vitlit.__main__ import main
from vitlit.commands.fit_callbacks import resume_command
from vitlit.fault_tolerance.signals import Stopping

FIT = ["fit", "--config=digits.yaml", "--trainer.accelerator=cpu", *SMALL]
EPOCH = re.compile(r"^ *(\d+)/\d+ ")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """Where both streams and Lightning's log go, as with > log.txt 2>&1."""
    monkeypatch.chdir(tmp_path)
    found = StringIO()
    for name in ("pytorch_lightning", "lightning_fabric"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [logging.StreamHandler(found)])
    return found


def said(log: StringIO, monkeypatch: pytest.MonkeyPatch, *args: str, status: int = 0) -> list[str]:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", log)
        patch.setattr(sys, "stderr", log)
        assert main([*args]) == status
    return log.getvalue().splitlines()


def test_a_log_has_a_summary_a_line_for_each_epoch_and_no_control_characters(
    log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = said(log, monkeypatch, *FIT, "--run=a", "--trainer.max_epochs=3")
    text = log.getvalue()
    assert len(text) + 117 * 81 < 20_000  # with the other epochs of the recipe, 80 letters each
    assert text.replace("\n", "").isprintable()
    assert [EPOCH.match(line)[1] for line in lines if EPOCH.match(line)] == ["1", "2", "3"]
    words = [line.split()[0] for line in lines if line and line[0].isalpha()]
    assert words[:6] == ["data", "images", "classes", "batches", "model", "parameters"]
    assert words[6:11] == ["FLOPs", "precision", "device", "run", "epoch"]
    assert words[11:] == ["reached", "best", "best", "last", "run", "curves", "hint", "next"]
    assert max(map(len, lines)) <= 80
    assert "data        digits: 1,295 train, 143 val, 359 test images" in lines
    assert "batches     20 per epoch, 64 images per update; 3 epochs, 60 updates" in lines
    with Path("lightning_logs/a/history.csv").open(newline="") as file:
        best = max(csv.DictReader(file), key=lambda row: (float(row["val/acc"]), row["epoch"]))
    assert [int(EPOCH.match(line)[1]) - 1 for line in lines if line.endswith("best")][-1] == int(
        best["epoch"]
    )


def test_a_training_on_the_cpu_does_not_hear_of_a_gpu(
    log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = "pytorch_lightning.trainer.setup.CUDAAccelerator.is_available"
    monkeypatch.setattr(available, lambda: True)
    said(log, monkeypatch, *FIT, "--trainer.max_epochs=1")
    assert "GPU" not in log.getvalue()


def test_a_first_step_that_a_scaler_leaves_out_is_not_called_a_fault_of_the_order(
    log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_out(self: Precision, *args: Any, closure: Callable[[], Any], **_: Any) -> Any:
        return closure()

    monkeypatch.setattr(Precision, "optimizer_step", leave_out)
    said(log, monkeypatch, *FIT, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    assert "lr_scheduler" not in log.getvalue()


def test_a_resumed_training_goes_on_counting(
    log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [*FIT, "--trainer.accumulate_grad_batches=2"]
    said(log, monkeypatch, *args, "--run=a", "--trainer.max_epochs=1")
    log.seek(0)
    log.truncate()
    lines = said(
        log, monkeypatch, *args, "--run=b", "--ckpt_path=lightning_logs/a", "--trainer.max_epochs=3"
    )
    assert [EPOCH.match(line)[1] for line in lines if EPOCH.match(line)] == ["2", "3"]
    assert "resumed     after 10 updates" in lines
    text = " ".join(" ".join(lines).split())
    assert "128 images per update (64 per batch x 2" in text


def test_photos_are_described_by_their_files(
    log: StringIO, monkeypatch: pytest.MonkeyPatch, photo_folder: PhotoFolder
) -> None:
    folder = photo_folder(count=8)
    (folder / "cat" / "0.png").unlink()
    size = ["--data.img_size=16", "--model.patch_size=8", "--data.batch_size=4"]
    args = [*size, *SMALL, "--trainer.max_epochs=1", "--trainer.limit_val_batches=0"]
    lines = said(log, monkeypatch, "fit", str(folder), *args)
    assert any("files of 24x20 pixels, fitted to 16x16, RGB" in line for line in lines)
    assert any(line.startswith("classes     2") for line in lines)
    [line] = [line for line in lines if EPOCH.match(line)]
    assert line.split()[2:4] == ["-", "-"]  # nothing was validated


@pytest.mark.parametrize("logger", ["none", "csv", "two"])
def test_history_config_and_checkpoints_are_in_the_run_whatever_logs(
    logger: str, log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "{class_path: pytorch_lightning.loggers.%s, init_args: {save_dir: .}}"
    both = [made % "CSVLogger", made % "TensorBoardLogger"]
    value = {"none": "false", "csv": both[0], "two": f"[{', '.join(both)}]"}[logger]
    Path("log.yaml").write_text(f"trainer: {{logger: {value}}}\n")
    args = ["--config=log.yaml", "--trainer.max_epochs=1", "--run=a"]
    lines = said(log, monkeypatch, *FIT, *args, "--trainer.log_every_n_steps=5")
    [run] = Path("lightning_logs").iterdir()
    names = {path.name.partition(".")[0] for path in run.iterdir()}
    assert {"checkpoints", "config", "history"} <= names
    assert (run / "csv" / "metrics.csv").is_file() == (logger != "none")
    assert ("events" in names) == (logger == "two")
    assert any(line.startswith("curves") for line in lines) == (logger == "two")


def test_tensorboard_has_the_settings_and_each_test_score_once_at_the_last_step(
    log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(log, monkeypatch, *FIT, "--run=a", "--trainer.max_epochs=2")
    said(log, monkeypatch, "test", "--run=a", "--trainer.accelerator=cpu")
    events = EventAccumulator("lightning_logs/a").Reload()
    for name in ("acc", "acc5", "loss", "balanced_acc", "f1", "ece"):
        assert [event.step for event in events.Scalars(f"test/{name}")] == [40], name
    found = events.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(found["_hparams_/session_start_info"])
    assert start.hparams["model.lr"].number_value == 5e-3
    assert start.hparams["data.batch_size"].number_value == 64
    assert start.hparams["model.pos_embed"].string_value == "learn"
    experiment = metadata.parse_experiment_plugin_data(found["_hparams_/experiment"])
    assert "val/acc" in [metric.name.tag for metric in experiment.metric_infos]
    assert len(events.Scalars("val/acc")) == 2  # no point that nobody measured


def test_a_signal_brings_the_command_that_goes_on(
    log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Stopping.on_train_batch_end

    def stop(self: Stopping, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 25:
            self.signum = signal.SIGINT
        begin(self, trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stopping, "on_train_batch_end", stop)
        lines = said(log, monkeypatch, *FIT, "--trainer.max_epochs=3", status=130)
    [command] = [
        line.removeprefix("vitlit: to continue: vitlit ")
        for line in lines
        if "to continue: " in line
    ]
    log.seek(0)
    log.truncate()
    lines = said(log, monkeypatch, *shlex.split(command))
    assert [EPOCH.match(line)[1] for line in lines if EPOCH.match(line)] == ["2", "3"]
    assert "resumed     after 25 updates" in lines


def test_the_command_that_goes_on_never_begins_at_an_earlier_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    run = Path("lightning_logs", "a")
    assert resume_command(["fit", "my photos"], run) == "vitlit fit 'my photos' --run a"
    for words in (["--ckpt_path", "best", "--run=a"], ["--ckpt_path=x.ckpt", "--run", "a"]):
        found = shlex.split(resume_command(["fit", *words], run).replace("=", " "))
        assert found == ["vitlit", "fit", "--ckpt_path", "last", "--run", "a"]
