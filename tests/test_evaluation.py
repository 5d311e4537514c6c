"""Scores and calibration, against scikit-learn and plain loops."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import optimize
from sklearn import metrics as sk
from torch import Tensor

from vitlit.evaluation.calibration import calibration_error, fit_temperature, mean_loss, reliability
from vitlit.evaluation.scores import (
    class_scores,
    class_table,
    confusion_counts,
    most_confident_mistakes,
    summary_scores,
)


def answers(count: int = 500, classes: int = 7, *, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits that are right about half the time, too sure of it; class 2 has no image."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    labels[labels == 2] = 3
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.5
    logits[:, 5] -= 7  # never predicted
    return logits * scale, labels


def plain_error(logits: Tensor, labels: Tensor) -> float:
    """The calibration error of Guo et al., equations 2 and 3, image by image."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    error = 0.0
    for number in range(15):
        members = [
            i
            for i, sure in enumerate(confidence.tolist())
            if number / 15 < sure <= (number + 1) / 15
        ]
        if not members:
            continue
        sure = sum(confidence[i].item() for i in members) / len(members)
        right = sum(predicted[i].item() == labels[i].item() for i in members) / len(members)
        error += len(members) / len(labels) * abs(sure - right)
    return error


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_scores_are_scikit_learns() -> None:
    logits, labels = answers()
    predicted, found = logits.argmax(dim=1), summary_scores(logits, labels)
    probabilities = logits.double().softmax(dim=1)
    everything: Any = {"labels": range(7)}
    expected = {
        "acc": sk.accuracy_score(labels, predicted),
        "acc5": sk.top_k_accuracy_score(labels, probabilities, k=5, **everything),
        "balanced_acc": sk.balanced_accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, average="macro", zero_division=0),
        "loss": sk.log_loss(labels, probabilities, **everything),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_scores_of_each_class_are_scikit_learns() -> None:
    logits, labels = answers()
    found = class_scores(logits, labels)
    expected = sk.precision_recall_fscore_support(
        labels, logits.argmax(dim=1), labels=range(7), zero_division=0
    )
    for name, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        assert found[name].tolist() == pytest.approx(values.tolist()), name


def test_the_confusion_matrix_is_scikit_learns() -> None:
    logits, labels = answers()
    expected = sk.confusion_matrix(labels, logits.argmax(dim=1), labels=range(7))
    assert confusion_counts(logits, labels).tolist() == expected.tolist()


def test_the_class_table_goes_by_name() -> None:
    logits, labels = answers()
    table = class_table(logits, labels, list("abcdefg"))
    assert list(table) == list("abcdefg")
    assert table["c"]["images"] == 0
    assert table["f"]["predicted"] == 0


def test_five_classes_have_no_top_5() -> None:
    logits, labels = answers()
    assert "acc5" not in summary_scores(logits[:, :5], labels.clamp(max=4))


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 40.0])
def test_the_calibration_error_is_that_of_a_plain_loop(scale: float) -> None:
    logits, labels = answers(scale=scale)
    assert calibration_error(logits, labels) == pytest.approx(plain_error(logits, labels), abs=1e-5)


def test_the_bins_of_reliability_add_up_to_the_calibration_error() -> None:
    logits, labels = answers()
    sure, right, count = reliability(logits, labels)
    assert count.sum() == len(labels)
    error = ((sure - right).abs() * count).sum() / count.sum()
    assert float(error) == pytest.approx(plain_error(logits, labels), abs=1e-6)


def test_a_certain_answer_is_in_the_last_bin() -> None:
    found = reliability(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]))
    assert found.images.tolist() == [0] * 14 + [1]
    assert (found.confidence[-1], found.accuracy[-1]) == (1, 1)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_temperature_is_that_of_another_optimiser(scale: float) -> None:
    logits, labels = answers(scale=scale)
    found = fit_temperature(logits, labels)
    expected = optimize.minimize_scalar(
        lambda log: F.cross_entropy(logits.double() / 2.718281828**log, labels).item(),
        bounds=(-2.9, 2.9),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert found.temperature == pytest.approx(2.718281828**expected.x, rel=1e-4)
    assert found.loss_after == pytest.approx(expected.fun, rel=1e-9)
    assert found.loss_after < found.loss_before == mean_loss(logits, labels)


def test_equal_logits_keep_their_temperature() -> None:
    found = fit_temperature(torch.zeros(9, 3), torch.arange(9) % 3)
    assert found.temperature == 1.0


def test_answers_that_are_all_right_are_as_cold_as_is_tried() -> None:
    found = fit_temperature(torch.eye(3), torch.arange(3))
    assert found.is_at_limit
    assert found.loss_after < found.loss_before


def test_mistakes_come_with_the_surest_first() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0], [5.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 1])
    assert most_confident_mistakes(logits, labels, 9).tolist() == [3, 2, 1]
    assert most_confident_mistakes(logits, labels, 1).tolist() == [3]
