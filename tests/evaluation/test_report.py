"""The report of a test: its numbers, its files, and where they go."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitlit import ImageData, load
from vitlit.__main__ import main
from vitlit.evaluation import report
from vitlit.evaluation.calibration import Calibration
from vitlit.evaluation.inference import Rows, gather_rows
from vitlit.evaluation.multi_label_report import multi_label_summary
from vitlit.evaluation.report_files import calibration_words, fit_calibration
from vitlit.evaluation.scoring import Scoring, WriteReport
from vitlit.files import is_output
from vitlit.model.vit import ViT
from vitlit.tasks.known import DEFAULT

SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2", "--trainer.max_epochs=3"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FILES = {"metrics.json", "confusion.png", "reliability.png", "mistakes.png", "mistakes.csv"}
FILES |= {"risk_coverage.png"}
FILES |= {"probabilities.npz", "index.html"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", "digits.yaml", *SMALL, *QUIET, "--run=first"]) == 0
    return folder / "lightning_logs" / "first"


def score(run: Path, *args: str) -> int:
    return main(["test", "--ckpt_path", str(run), *QUIET, *args])


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def logits_of(run: Path, split: str = "test", *, flip: bool = False) -> tuple[Any, Any]:
    """What the loaded model says of a split, in one batch."""
    model, preprocess, _ = load(run)
    data = ImageData(patch_size=2)
    data.setup("test" if split == "test" else "validate")
    part = data.splits[split]
    images = preprocess(part.images.gather(part.members))
    with torch.no_grad():
        return model(images.flip(-1) if flip else images), part.labels


@pytest.fixture(scope="module")
def reported(run: Path) -> Path:
    """The report of the run."""
    assert score(run) == 0
    return run / "test_report"


def test_the_report_lies_in_the_run(reported: Path) -> None:
    assert {path.name for path in reported.iterdir()} == FILES
    assert is_output(reported)


def test_its_numbers_are_scikit_learns(run: Path, reported: Path) -> None:
    logits, labels = logits_of(run)
    table, predicted = read(reported), logits.argmax(dim=1)
    expected = {
        "images": 359,
        "acc": sk.accuracy_score(labels, predicted),
        "balanced_acc": sk.balanced_accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, average="macro", zero_division=0),
        "loss": sk.log_loss(labels, logits.double().softmax(dim=1)),
    }
    assert {name: table["scores"][name] for name in expected} == pytest.approx(expected, rel=1e-5)
    recall = sk.recall_score(labels, predicted, average=None, zero_division=0)
    assert [row["recall"] for row in table["classes"].values()] == pytest.approx(recall.tolist())


def test_its_temperature_is_fitted_on_validation_and_lowers_the_loss_there(
    run: Path, reported: Path
) -> None:
    found = read(reported)["temperature"]
    logits, labels = logits_of(run, "val")
    assert found["images"] == len(labels) == 143
    for name, scale in (("before", 1.0), ("after", found["value"])):
        expected = sk.log_loss(labels, (logits.double() / scale).softmax(dim=1))
        assert found[f"val_loss_{name}"] == pytest.approx(expected, rel=1e-5)
    assert found["val_loss_after"] < found["val_loss_before"]


def test_right_answers_alone_fix_no_temperature() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 0.5], [0.3, 0.0]])
    assert fit_calibration(logits, torch.tensor([0, 1, 0])) == (
        "none can be fitted, since all 3 validation images are right"
    )
    assert isinstance(fit_calibration(logits, torch.tensor([0, 1, 1])), Calibration)


def test_its_probabilities_are_those_of_the_loaded_model(run: Path, reported: Path) -> None:
    logits, labels = logits_of(run)
    with np.load(reported / "probabilities.npz") as arrays:
        found, theirs = arrays["probabilities"], arrays["labels"]
    np.testing.assert_allclose(found, logits.softmax(dim=1).numpy(), rtol=1e-4, atol=1e-6)
    assert theirs.tolist() == labels.tolist()


def test_its_mistakes_are_all_of_them_the_most_confident_first(run: Path, reported: Path) -> None:
    logits, labels = logits_of(run)
    sure, taken = logits.softmax(dim=1).max(dim=1)
    with (reported / "mistakes.csv").open() as file:
        rows = list(csv.DictReader(file))
    wrong = (taken != labels).nonzero()[:, 0].tolist()
    assert sorted(int(row["image"]) for row in rows) == wrong
    for row in rows:
        i = int(row["image"])
        assert (row["class"], row["predicted"]) == (str(int(labels[i])), str(int(taken[i])))
        assert float(row["probability"]) == pytest.approx(float(sure[i]), abs=1e-3)
    shares = [float(row["probability"]) for row in rows]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ece": 0.02}, "calibration error 0.0400 without, 0.0200 with temperature 1.500, fitted"),
        ({"ece": 0.06}, "temperature 1.500, fitted on 9 validation images, does not lower it here"),
        (
            {"at_limit": True},
            "no temperature: the best one for 9 validation images is outside 0.05 to 20",
        ),
        ({"skipped": "none"}, "calibration error 0.0400; no temperature: none"),
    ],
)
def test_a_temperature_is_praised_only_where_it_helps(changes: dict[str, Any], words: str) -> None:
    fit = {"value": 1.5, "images": 9, "at_limit": False, "ece": 0.01} | changes
    assert words in calibration_words({"ece": 0.04}, fit)


def test_images_that_the_model_may_have_been_trained_on_are_told(run: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="split_seed was 0: it may have been trained on these"):
        assert score(run, "--data.split_seed=5", f"--out={tmp_path / 'seen'}") == 0
    assert "split_seed was 0" in read(tmp_path / "seen")["note"]


def test_another_test_of_the_same_replaces_it_and_of_another_split_does_not(
    run: Path, reported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(run) == 0
    assert score(run, "--data.split=val") == 0
    assert score(run, "--data.split=val") == 0
    assert {path.name for path in run.glob("test_report*")} == {"test_report", "test_report-2"}
    assert read(reported)["of"]["split"] == "test"
    assert "skipped" in read(run / "test_report-2")["temperature"]


def test_the_last_lines_say_how_sure_the_accuracy_is(
    run: Path, reported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(run) == 0
    out = capsys.readouterr().out
    low, high = read(reported)["scores"]["acc_interval"]
    assert f"accuracy from {low:.4f} to {high:.4f}" in out
    assert f"report      {reported}" in out


def test_a_folder_can_be_given_and_is_never_written_over(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "mine"
    assert score(run, f"--out={folder}") == 0
    assert {path.name for path in folder.iterdir()} == FILES
    assert score(run, f"--out={folder}") == 2


def test_a_flip_averages_logits_and_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "flipped"
    assert score(run, "--flip=true", f"--out={folder}") == 0
    assert "test+flip/acc" in capsys.readouterr().out
    (plain, labels), (mirrored, _) = logits_of(run), logits_of(run, flip=True)
    expected = ((plain + mirrored).argmax(dim=1) == labels).float().mean()
    table = read(folder)
    assert table["scores"]["acc"] == pytest.approx(float(expected))
    assert table["of"]["flip"] is True


def test_with_a_flip_the_temperature_is_that_of_averaged_logits(run: Path, tmp_path: Path) -> None:
    assert score(run, "--flip=true", f"--out={tmp_path / 'flipped'}") == 0
    (plain, labels), (mirrored, _) = logits_of(run, "val"), logits_of(run, "val", flip=True)
    found = read(tmp_path / "flipped")["temperature"]
    for name, scale in (("before", 1.0), ("after", found["value"])):
        averaged = (plain.double() + mirrored.double()) / 2 / scale
        expected = sk.log_loss(labels, averaged.softmax(dim=1))
        assert found[f"val_loss_{name}"] == pytest.approx(expected, rel=1e-5)


def test_figures_and_scores_go_to_a_logger_where_there_is_one(run: Path, tmp_path: Path) -> None:
    logger = f"--trainer.logger.init_args.save_dir={tmp_path}"
    assert (
        score(run, "--trainer.logger=TensorBoardLogger", logger, f"--out={tmp_path / 'report'}")
        == 0
    )
    [file] = tmp_path.glob("**/events*")
    tags = EventAccumulator(str(file)).Reload().Tags()
    assert {"test/confusion", "test/reliability", "test/mistakes"} <= set(tags["images"])
    assert {"test/ece", "test/f1", "test/balanced_acc", "test/acc"} <= set(tags["scalars"])


@pytest.mark.draws
def test_figures_and_scores_go_into_the_run(run: Path) -> None:
    before = set(run.glob("events*"))
    assert score(run) == 0
    [file] = set(run.glob("events*")) - before
    tags = EventAccumulator(str(file)).Reload().Tags()
    assert {"test/confusion", "test/reliability", "test/mistakes"} <= set(tags["images"])
    assert {"test/ece", "test/f1", "test/balanced_acc", "test/acc"} <= set(tags["scalars"])


def test_a_checkpoint_outside_a_run_has_its_report_beside_it(run: Path, tmp_path: Path) -> None:
    (tmp_path / "größe.ckpt").write_bytes((run / "checkpoints" / "best.ckpt").read_bytes())
    assert main(["test", "--ckpt_path", str(tmp_path / "größe.ckpt"), *QUIET]) == 0
    text = (tmp_path / "test_report" / "metrics.json").read_text(encoding="utf-8")
    assert "größe.ckpt" in text  # for people, not escaped


def test_published_weights_have_their_report_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = f"--model.pretrained={run / 'checkpoints' / 'best.ckpt'}"
    for _ in range(2):
        assert main(["test", source, "--data.dataset=digits", *QUIET]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["test_report"]


def test_a_run_that_cannot_be_written_to_leaves_the_report_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != run and access(path, mode))
    assert score(run) == 0
    assert (tmp_path / "test_report").is_dir()


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_scored(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vitlit.evaluation.report.os.access", lambda path, mode: False)
    assert score(run) == 2
    assert "give another place (--out)" in capsys.readouterr().err


def test_answers_that_are_no_finite_numbers_are_refused_and_leave_no_report(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = ViT.forward
    monkeypatch.setattr(ViT, "forward", lambda model, x: forward(model, x) * float("inf"))
    assert score(run, f"--out={tmp_path / 'found'}") == 2
    said = capsys.readouterr().err
    assert "infinite for 359 of 359 images, the first is digits test 0;" in " ".join(said.split())
    assert list(tmp_path.iterdir()) == []


class Gathered(Scoring):
    """A module of which little is asked for."""

    device, class_names = None, ()  # type: ignore[assignment]
    task = DEFAULT


@pytest.mark.parametrize(("world", "gather"), [(1, None), (2, gather_rows), (3, gather_rows)])
def test_several_processes_gather_the_rows_that_each_has(
    world: int, gather: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[object] = []
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])

    def rows(gather: object) -> Rows:
        asked.append(gather)
        return Rows(logits, torch.tensor([0, 1, 1]), torch.arange(3))

    found: Any = SimpleNamespace(rows=rows)
    for name in ("collect", "loader_of", "evenly_thinned"):
        monkeypatch.setattr(report, name, lambda *_: found)
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision: decision)
    splits = {"val": None, "test": SimpleNamespace(names=lambda *_: [])}
    data = SimpleNamespace(dataset="", split="test", setup=lambda _: None, splits=splits)
    trainer: Any = SimpleNamespace(world_size=world, is_global_zero=False, fast_dev_run=False)
    trainer.strategy, trainer.loggers, trainer.datamodule = strategy, [], data
    writer = report.Report("published", None)
    writer._found = found
    WriteReport(writer).on_test_end(trainer, Gathered.__new__(Gathered))  # type: ignore[arg-type]
    assert asked == [gather, gather]  # of the test and of the validation for the temperature


def test_a_score_that_no_image_decides_has_no_interval() -> None:
    logits, targets = torch.full((5, 3), -9.0), torch.zeros(5, 3, dtype=torch.int8)
    found = multi_label_summary(logits, targets, torch.full((3,), 0.5))
    assert found["map_interval"] is None
    assert found["f1_interval"] is None
    json.dumps(found, allow_nan=False)  # other programs read metrics.json
