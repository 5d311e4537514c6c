"""summary.png: what is kept of the validations of a training, and what the picture shows of it."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import Tensor
from trainings import QUIET, SMALL

from vitlit.__main__ import main
from vitlit.data.batch import Batch
from vitlit.evaluation.figures import summary_figure
from vitlit.evaluation.inference import Rows
from vitlit.evaluation.scoring import Scoring
from vitlit.evaluation.summary import OUTCOMES, WriteSummary, chosen_rows, kept_of, one_class
from vitlit.plotting import BLUE, VERMILION
from vitlit.tasks.multi_label import MultiLabel
from vitlit.tasks.regression import Regression
from vitlit.tasks.single_label import SingleLabel

FIT = ["fit", "--config=digits.yaml", "--trainer.accelerator=cpu", *QUIET, *SMALL, "--run=a"]
SHORT = ["--trainer.limit_train_batches=6", "--trainer.max_epochs=3"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Rows, str]]:
    """What summaries would have drawn: rows, and of which epoch they are."""
    found: list[tuple[Rows, str]] = []

    def draw(self: WriteSummary, rows: Rows, *args: Any) -> None:
        found.append((rows, self._words))

    monkeypatch.setattr(WriteSummary, "_draw", draw)
    return found


def test_the_predictions_are_those_of_the_best_validation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drawn: list[tuple[Rows, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, *SHORT]) == 0
    [(rows, words)] = drawn
    with Path("lightning_logs/a/history.csv").open(newline="") as file:
        scores = [(float(row["val/acc"]), int(row["epoch"]) + 1) for row in csv.DictReader(file)]
    best = max(scores)
    assert words == f"epoch {best[1]}, the best"
    assert rows.sample.tolist() == list(range(143))
    right = (rows.values[:, 0] == rows.labels).double().mean().item()
    assert right == pytest.approx(best[0], abs=1e-6)
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = [words[-6:] for words in told if "val/loss" in words and "reached" not in words]
    order = sorted(scores, reverse=True)
    assert [(float(row[-3]), int(row[-5])) for row in table] == [
        (pytest.approx(score, abs=5e-5), epoch) for score, epoch in order
    ]


def batch_of(labels: list[int]) -> Batch:
    n = len(labels)
    return Batch(
        torch.zeros(n, 1, 2, 2), torch.tensor(labels), torch.arange(n), torch.ones(n) > 0, 0, 0
    )


def logits_of(predicted: list[int]) -> Tensor:
    return 4 * torch.nn.functional.one_hot(torch.tensor(predicted), 3).float()


def test_after_a_resume_the_last_validation_is_kept_until_one_is_the_best(
    tmp_path: Path, drawn: list[tuple[Rows, str]]
) -> None:
    curves = SimpleNamespace(is_best=False, draw_on=None)
    summary = WriteSummary(tmp_path, curves)
    data = SimpleNamespace(splits={"val": None})
    trainer: Any = SimpleNamespace(
        sanity_checking=False, world_size=1, is_global_zero=True, datamodule=data,
        strategy=SimpleNamespace(reduce_boolean_decision=bool), current_epoch=0,
    )  # fmt: skip
    module: Any = SimpleNamespace(task=SingleLabel({}))
    summary.on_train_end(trainer, module)  # resumed at its end
    assert drawn == []
    for epoch, (predicted, is_best) in enumerate(
        [([0, 0], False), ([0, 1], True), ([2, 2], False)]
    ):
        trainer.current_epoch, curves.is_best = epoch, is_best
        summary.on_validation_epoch_start(trainer, module)
        summary.on_validation_batch_end(trainer, module, logits_of(predicted), batch_of([0, 1]), 0)
        summary.on_validation_end(trainer, module)
        summary.on_train_end(trainer, module)
    assert [rows.values[:, 0].tolist() for rows, _ in drawn] == [[0, 0], [0, 1], [0, 1]]
    assert [words for _, words in drawn] == [
        "epoch 1, the last: the best was before a resume",
        "epoch 2, the best",
        "epoch 2, the best",
    ]


def test_the_thresholds_are_those_of_the_epoch_that_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(WriteSummary, "_draw", lambda self, rows, task, *args: kept.append(task))
    curves = SimpleNamespace(is_best=True, draw_on=None)
    summary = WriteSummary(tmp_path, curves)
    trainer: Any = SimpleNamespace(
        sanity_checking=False, world_size=1, is_global_zero=True, current_epoch=0,
        datamodule=SimpleNamespace(splits={"val": None}),
        strategy=SimpleNamespace(reduce_boolean_decision=bool),
    )  # fmt: skip
    settings = {"thresholds": [0.3, 0.4, 0.6]}  # one dict for all epochs, as in the module
    module: Any = SimpleNamespace(task=MultiLabel(settings))
    summary.on_validation_batch_end(trainer, module, logits_of([0, 1]), batch_of([0, 1]), 0)
    summary.on_validation_end(trainer, module)
    settings["thresholds"] = [0.1, 0.1, 0.1]
    summary.on_train_end(trainer, module)
    assert kept[0].thresholds(3).tolist() == pytest.approx([0.3, 0.4, 0.6])


def test_answers_that_are_no_finite_numbers_end_a_training_without_its_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = Scoring.validation_step
    monkeypatch.setattr(Scoring, "validation_step", lambda *args: step(*args) * float("nan"))
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, "--trainer.limit_train_batches=1", "--trainer.max_epochs=1"]) == 0
    assert "no summary.png: the model's answer is NaN or infinite" in caplog.text
    assert not list(tmp_path.rglob("summary.png"))


def test_a_summary_that_cannot_be_written_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: WriteSummary, *args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WriteSummary, "_draw", fail)
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, "--trainer.limit_train_batches=1", "--trainer.max_epochs=1"]) == 0
    assert "summary.png: No space left on device" in caplog.text


def test_half_of_the_images_are_the_surest_mistakes_and_the_rest_of_all_classes() -> None:
    labels = torch.arange(60) % 3
    predicted = labels.clone()
    predicted[:20] = (labels[:20] + 1) % 3
    sure = torch.rand(60, generator=torch.Generator().manual_seed(0))
    chosen = chosen_rows(
        Rows(torch.stack([predicted.float(), sure], dim=1), labels, torch.arange(60))
    )
    assert chosen[:6] == sorted(range(20), key=lambda i: -float(sure[i]))[:6]
    assert set(labels[chosen[6:]].tolist()) == {0, 1, 2}
    assert min(chosen[6:]) >= 20
    assert len(set(chosen)) == 12


@pytest.mark.parametrize("classes", [2, 100])
def test_the_figure_frames_right_and_wrong_images_in_their_colours(classes: int) -> None:
    words = ["a.png\ntrue dog\npredicted cat (0.9)", "b.png\ntrue cat\npredicted cat (0.8)"]
    names = [f"class {i}" for i in range(classes)]
    sure = torch.full((2 * classes,), 0.9)
    predicted = torch.arange(classes).repeat(2)
    rows = Rows(torch.stack([predicted, sure], dim=1), predicted, torch.arange(2 * classes))
    found = one_class(rows, names, SingleLabel({}))
    found = found._replace(words=words, is_right=[False, True])
    calls: list[Any] = []
    figure = summary_figure(
        found, torch.rand(2, 3, 4, 6), f"{found.scores}; title{found.note}", calls.append
    )
    assert len(calls) == 1
    sheet = figure.subfigs[2]
    framed = [axes for axes in sheet.axes if axes.images]
    assert [axes.get_title() for axes in framed] == words
    colours = [to_hex(axes.spines["top"].get_edgecolor()) for axes in framed]
    assert colours == [VERMILION.lower(), BLUE.lower()]
    shown = "; 30 of 100 classes, those with the most mistakes" if classes == 100 else ""
    assert " ".join(figure.get_suptitle().split()) == f"accuracy 1.0000; title{shown}"


@pytest.mark.draws
def test_a_training_draws_its_summary_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, "--trainer.limit_train_batches=1", "--trainer.max_epochs=1"]) == 0
    with Image.open("lightning_logs/a/summary.png") as picture:
        assert picture.width == 960
    assert "picture     lightning_logs/a/summary.png" in capsys.readouterr().out


def test_of_several_classes_the_surest_wrong_labels_are_shown_first() -> None:
    names, task = ["cat", "dog", "owl"], MultiLabel({"thresholds": [0.5, 0.5, 0.9]})
    targets = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1.0], [0, 0, 0]])
    probabilities = torch.tensor(
        [[0.8, 0.1, 0.1], [0.7, 0.4, 0.1], [0.9, 0.9, 0.2], [0.1, 0.95, 0.8], [0.1, 0.1, 0.1]]
    )
    logits = kept_of(probabilities.logit(), task)
    found = OUTCOMES[task.name](Rows(logits, targets, torch.arange(5)), names, task)
    # row 3: the dog is .95 away from the truth and the owl below its threshold; row 1: .7 and .6
    assert found.shown == [3, 1, 0, 2, 4]
    assert found.is_right == [False, False, True, True, True]
    assert found.words[0] == "true owl\npredicted dog"
    assert found.words[1] == "true dog\npredicted cat"
    assert found.words[3] == "true cat; dog\npredicted cat; dog"
    expected = (
        sum(average_precision_score(targets[:, k], probabilities[:, k]) for k in range(3)) / 3
    )
    assert found.scores == f"mean average precision {expected:.4f}"


def test_of_numbers_the_largest_errors_are_shown_first() -> None:
    task = Regression({"target_mean": 10.0, "target_std": 2.0})
    wanted = torch.arange(30.0)[:, None]
    errors = torch.linspace(0.1, 0.3, 30)[:, None]
    errors[[4, 9, 20]] = torch.tensor([[-5.0], [4.0], [3.0]])
    outputs = kept_of((wanted + errors - 10) / 2, task)
    found = OUTCOMES[task.name](Rows(outputs, wanted, torch.arange(30)), ["age"], task)
    assert found.shown[:6] == [4, 9, 20, 29, 28, 27]
    assert found.shown[6:] == [0, 6, 11, 16, 21, 26]  # evenly spread over the other 24
    assert found.words[0] == "true 4\npredicted -1 (-5)"
    assert found.is_right == [False] * 6 + [True] * 6
    mean = float(errors.abs().mean())
    assert found.scores.startswith(f"MAE {mean:.4g}, R2 0.9")


@pytest.mark.draws
@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_a_training_of_another_task_draws_its_summary(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["file,even,$odd$" if task == "multi_label" else "file,ink"]
    for i in range(40):
        Image.new("L", (8, 8), 6 * i).save(tmp_path / f"{i:02}.png")
        lines.append(
            f"{i:02}.png,{1 - i % 2},{i % 2}" if task == "multi_label" else f"{i:02}.png,{i}"
        )
    Path("labels.csv").write_text("\n".join(lines) + "\n")
    words = ["--data.dataset=folder", "--data.data_dir=.", "--data.labels=labels.csv"]
    words += ["--data.img_size=8", "--data.in_chans=1", "--data.batch_size=8"]
    words += ["--model.patch_size=4", "--run=a"]
    words += ["--data.target=ink"] * (task == "regression")
    assert main(["fit", *words, *SMALL, *QUIET, "--trainer.max_epochs=1"]) == 0
    with Image.open("lightning_logs/a/summary.png") as picture:
        assert picture.width == 960
    assert "picture     lightning_logs/a/summary.png" in capsys.readouterr().out
