"""history.csv, history.png and the pictures in TensorBoard, from real small runs."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
from history_figure import history_figure
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only
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
def test_only_the_first_process_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    history = History(tmp_path)
    history.rows = [{"epoch": 0, "step": 20, "lr": 1e-3, "train/acc": 0.5}]  # of a resumed run
    history.on_exception(Epochs(), None, RuntimeError())
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_pictures_are_drawn_of_weights_in_any_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    args = [f"--trainer.precision={precision}", "--pictures.every_n_epochs=1"]
    args += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    run = fit(tmp_path, monkeypatch, *args)
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert events.Images("attention/rollout")


@pytest.mark.parametrize("settings", [{"every_n_epochs": 0}, {"count": 0}])
def test_pictures_of_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be 1 or more"):
        AttentionPictures(**settings)


class Epochs:
    """The part of a trainer that the history reads, between epochs."""

    sanity_checking, is_global_zero = False, True

    def __init__(self, epoch: int = 0) -> None:
        self.current_epoch, self.callback_metrics = epoch, dict[str, float]()
        self.optimizers = [SimpleNamespace(param_groups=[{"lr": 0.1}, {"lr": 0.5}])]

    @property
    def global_step(self) -> int:
        return 10 * self.current_epoch

    def run(self, history: History, **scores: float) -> None:
        """One epoch whose validation has these scores, without the part of their names."""
        history.on_train_epoch_start(self, None)
        history.on_train_batch_start(self, None, None, 0)
        self.callback_metrics["train/acc"] = 0.25
        if scores:
            self.callback_metrics |= {f"val/{name}": score for name, score in scores.items()}
            history.on_validation_end(self, None)
        self.current_epoch += 1


@pytest.mark.parametrize(
    ("monitor", "scores", "best"),
    [("val/acc", [0.5, 0.4, 0.5, 0.6], [1, 0, 1, 1]), ("val/loss", [3, 2, 2, 2.5], [1, 1, 1, 0])],
)
def test_an_epoch_says_whether_it_was_the_best_so_far(
    monitor: Any, scores: list[float], best: list[int], tmp_path: Path
) -> None:
    history, trainer = History(tmp_path, monitor=monitor), Epochs()
    for score in scores:
        trainer.run(history, **{monitor.removeprefix("val/"): score})
    trainer.run(history)  # without validation
    history.on_train_epoch_start(trainer, None)
    assert [row["best"] for row in history.rows] == [*best, 0]
    assert [row["epoch"] for row in history.rows] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in history.rows] == [10, 20, 30, 40, 50]
    assert [row.get(monitor) for row in history.rows] == [*scores, None]  # no older score
    assert {row["lr"] for row in history.rows} == {0.5}


def test_a_score_of_the_check_before_training_is_no_best(tmp_path: Path) -> None:
    history, trainer = History(tmp_path), Epochs()
    trainer.sanity_checking = True
    trainer.callback_metrics["val/acc"] = 0.9
    history.on_validation_end(trainer, None)
    trainer.sanity_checking = False
    trainer.run(history, acc=0.5)
    history.on_train_epoch_start(trainer, None)
    assert [row["best"] for row in history.rows] == [1]


def test_the_folder_of_a_run_is_made_with_those_above_it(tmp_path: Path) -> None:
    history, trainer = History(tmp_path / "a" / "b"), Epochs()
    trainer.run(history, acc=0.5)
    history.on_train_epoch_start(trainer, None)
    [row] = rows(tmp_path / "a" / "b")
    assert list(row)[:3] == ["epoch", "step", "seconds"]
    assert row["val/acc"] == "0.5"
    assert "best" not in row  # of the lines that an epoch prints


def test_only_the_first_process_keeps_a_history(tmp_path: Path) -> None:
    history, trainer = History(tmp_path), Epochs()
    trainer.is_global_zero = False
    trainer.run(history, acc=0.5)
    history.on_train_epoch_start(trainer, None)
    assert history.rows == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "best"), [("first", [1, 0]), ("second", [1, 1])])
def test_a_resumed_history_goes_on_in_its_own_run_alone(
    name: str, best: list[int], tmp_path: Path
) -> None:
    history, trainer, checkpoint = History(tmp_path / "first"), Epochs(), dict[str, Any]()
    trainer.run(history, acc=0.5)
    history.on_train_epoch_start(trainer, None)
    history.on_save_checkpoint(trainer, None, checkpoint)
    resumed = History(tmp_path / name)
    resumed.on_load_checkpoint(trainer, None, checkpoint)
    resumed.on_train_epoch_start(trainer, None)  # has the row of that epoch already
    trainer.run(resumed, acc=0.4)
    resumed.on_train_epoch_start(trainer, None)
    assert [row["epoch"] for row in resumed.rows] == [0, 1]
    assert [row["best"] for row in resumed.rows] == best


def test_an_epoch_resumed_in_its_middle_counts_what_was_before(tmp_path: Path) -> None:
    history, trainer = History(tmp_path / "first"), Epochs(1)
    scores = {"seconds": 100.0, "best": 1.0, "val/acc": 0.5}
    found = {"rows": [], "validated": True, "scores": scores, "best": 0.5, "run": "first"}
    history.on_load_checkpoint(trainer, None, {"history": found})
    history.on_train_start(trainer, None)
    trainer.callback_metrics["train/acc"] = 0.25
    history.on_train_epoch_start(trainer, None)
    [row] = history.rows
    assert (row["best"], row["val/acc"]) == (1.0, 0.5)
    assert 100 <= row["seconds"] < 101
    trainer.current_epoch = 2
    history.on_train_epoch_start(trainer, None)
    assert history.rows[1]["best"] == 0.0
    assert 0 <= history.rows[1]["seconds"] < 1


def test_what_was_measured_is_drawn_and_nothing_else() -> None:
    points = {
        "train/loss_epoch": [(1, 0.5), (0, 0.9)],
        "val/loss": [(1, 0.6)],
        "train/acc": [(0, 0.1), (1, 0.2)],
        "val/acc": [],
        "lr": [(0, 0.1), (1, 0.2)],
    }
    loss, accuracy, rate = history_figure(points).axes
    assert [axes.get_title() for axes in (loss, accuracy, rate)] == [
        *("loss", "top-1 accuracy", "learning rate")
    ]
    assert [line.get_label() for line in loss.lines] == ["train", "val"]
    assert list(loss.lines[0].get_xdata()) == [0, 1]  # in order
    assert list(loss.lines[0].get_ydata()) == [0.9, 0.5]
    assert loss.lines[0].get_color() != loss.lines[1].get_color()
    assert loss.get_legend() is not None
    assert accuracy.get_legend() is None
    assert len(accuracy.lines) == 1
    assert rate.get_ylim()[0] == 0
    assert {axes.get_xlabel() for axes in (loss, accuracy, rate)} == {"epoch"}


def test_a_single_epoch_is_the_only_one_labelled() -> None:
    [axes] = history_figure({"lr": [(4, 0.1)]}).axes
    assert list(axes.get_xticks()) == [4]
    assert axes.get_xlim() == (3, 5)
