"""history.csv, history.png and the pictures in TensorBoard, from real small runs."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitlit.__main__ import main
from vitlit.errors import InputError
from vitlit.explain.attention_pictures import AttentionPictures
from vitlit.training.history import History

SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def fit(folder: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> Path:
    monkeypatch.chdir(folder)
    assert main(["fit", "--config", "digits.yaml", *SMALL, *QUIET, "--run=first", *args]) == 0
    return folder / "lightning_logs" / "first"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged(run: Path, name: str) -> list[float]:
    return [event.value for event in EventAccumulator(str(run)).Reload().Scalars(name)]


def test_every_epoch_has_a_row_of_what_was_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fit(tmp_path, monkeypatch, "--trainer.max_epochs=3")
    found = rows(run)
    assert [row["epoch"] for row in found] == ["0", "1", "2"]
    assert [row["step"] for row in found] == ["20", "40", "60"]
    for name in ("train/loss_epoch", "train/acc", "train/acc5", "val/loss", "val/acc", "val/acc5"):
        assert [float(row[name]) for row in found] == pytest.approx(logged(run, name))
    # cosine to 0 after 6 steps of warmup, by its own formula, at the steps 20, 40 and 60
    shares = [(step - 6) / 54 for step in (19, 39, 59)]
    expected = [5e-3 * (1 + math.cos(math.pi * share)) / 2 for share in shares]
    assert [float(row["lr"]) for row in found] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_epochs_without_validation_have_no_scores_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"]
    found = rows(fit(tmp_path, monkeypatch, *args))
    assert [bool(row["val/acc"]) for row in found] == [False, True, False]


@pytest.mark.draws
def test_the_history_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit(tmp_path, monkeypatch, "--trainer.max_epochs=2")
    with Image.open(run / "history.png") as picture:
        assert picture.width == 960


@pytest.mark.draws
def test_a_training_that_ends_in_an_error_has_drawn_its_epochs(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.rows = [{"epoch": 0, "step": 20, "lr": 1e-3, "train/acc": 0.5}]
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    history.on_exception(trainer, pl.LightningModule(), RuntimeError())
    assert (tmp_path / "history.png").exists()


@pytest.mark.draws
def test_a_full_disk_hides_no_error_behind_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    history = History(tmp_path)
    history.rows = [{"epoch": 0, "step": 20, "train/acc": 0.5}]
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    history.on_exception(trainer, pl.LightningModule(), RuntimeError())
    assert not list(tmp_path.iterdir())


def test_pictures_of_attention_are_in_tensorboard_every_so_many_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        args = ["--trainer.max_epochs=4", "--pictures.every_n_epochs=2"]
        run = fit(tmp_path, monkeypatch, *args)
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    for name in ("rollout", "positions", "filters"):
        images = events.Images(f"attention/{name}")
        assert [image.step for image in images] == [1, 3]
        assert images[0].width >= 400
    assert len([text for text in caplog.messages if "pictures of attention took" in text]) == 1


@pytest.mark.parametrize("settings", [{"every_n_epochs": 0}, {"count": 0}])
def test_pictures_of_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be 1 or more"):
        AttentionPictures(**settings)
