"""Calibration against plain loops and another optimiser."""

import pytest
import torch
import torch.nn.functional as F
from scipy import optimize
from torch import Tensor

from vitlit.evaluation.calibration import calibration_error, fit_temperature, mean_loss, reliability


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


@pytest.mark.parametrize(("classes", "place"), [(3, 4), (5, 2), (15, 0)])
def test_a_confidence_on_the_edge_of_two_bins_is_in_the_lower(classes: int, place: int) -> None:
    """Equal logits have confidence 1/K; with 3 classes that is 5/15, the upper edge of bin 4."""
    found = reliability(torch.zeros(1, classes), torch.tensor([0]))
    assert found.images.nonzero().tolist() == [[place]]


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
