"""Scores and calibration, against scikit-learn and plain loops."""

from typing import Any

import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from vitlit.evaluation.figures import MAX_CLASSES, matrix_title, most_confused
from vitlit.evaluation.scores import (
    class_scores,
    class_table,
    confusion_counts,
    most_confident_mistakes,
    pair_counts,
    summary_scores,
)
from vitlit.tasks.metrics import Scores

SUMS = ("loss", "right", "among_five", "class_images", "class_right")


def answers(count: int = 500, classes: int = 7, *, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits that are right about half the time, too sure of it; class 2 has no image."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    labels[labels == 2] = 3
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.5
    logits[:, 5] -= 7  # never predicted
    return logits * scale, labels


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


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_scores_of_two_processes_are_those_of_all_their_images() -> None:
    logits, labels = answers()
    first, second = Scores(7), Scores(7)
    first.update(logits[:150], labels[:150])
    second.update(logits[150:], labels[150:])
    theirs = iter([getattr(second, name) for name in SUMS])
    found = first.compute(lambda own: own + next(theirs))
    predicted = logits.argmax(dim=1)
    expected = {
        "balanced_acc": sk.balanced_accuracy_score(labels, predicted),
        "acc": sk.accuracy_score(labels, predicted),
        "count": len(labels),
        "loss": sk.log_loss(labels, logits.double().softmax(dim=1), labels=range(7)),
    }
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected, rel=1e-5)


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
    found = confusion_counts(logits, labels)
    assert found.among(torch.arange(7)).tolist() == expected.tolist()
    assert found.of_true.tolist() == expected.sum(axis=1).tolist()
    assert found.of_predicted.tolist() == expected.sum(axis=0).tolist()
    assert found.right.tolist() == expected.diagonal().tolist()
    few = torch.tensor([1, 4, 5])
    assert found.among(few).tolist() == expected[few][:, few].tolist()


def test_a_confusion_of_very_many_classes_takes_little_memory() -> None:
    # the matrix of all pairs would have 80 GB
    labels, predicted = torch.tensor([0, 99_999, 99_999]), torch.tensor([5, 99_999, 3])
    found = pair_counts(labels, predicted, 100_000)
    assert found.among(torch.tensor([3, 99_999])).tolist() == [[0, 0], [1, 1]]
    assert int(found.of_true[99_999]) == 2
    assert len(most_confused(found)) == MAX_CLASSES
    assert {0, 3, 5, 99_999} <= {*most_confused(found).tolist()}
    assert matrix_title(found)[0] == "accuracy 0.3333"


def test_the_class_table_goes_by_name() -> None:
    logits, labels = answers()
    table = class_table(logits, labels, list("abcdefg"))
    assert list(table) == list("abcdefg")
    assert table["c"]["images"] == 0
    assert table["f"]["predicted"] == 0


def test_five_classes_have_no_top_5() -> None:
    logits, labels = answers()
    assert "acc5" not in summary_scores(logits[:, :5], labels.clamp(max=4))


def test_mistakes_come_with_the_most_confident_first() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0], [5.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 1])
    assert most_confident_mistakes(logits, labels, 9).tolist() == [3, 2, 1]
    assert most_confident_mistakes(logits, labels, 1).tolist() == [3]


def test_of_equal_logits_the_first_is_the_answer_everywhere() -> None:
    """As in bfloat16, whose logits are often equal."""
    logits = torch.randint(0, 3, (500, 10), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(500) % 10
    scores = Scores(10)
    scores.update(logits, labels)
    found = summary_scores(logits, labels)
    assert found["acc"] == pytest.approx(float(scores.compute()["acc"]))
    assert found["acc"] == sk.accuracy_score(labels, logits.argmax(dim=1))
