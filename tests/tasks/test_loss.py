"""The weighted loss, against torch's own and sums by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from vitlit.tasks.loss import (
    balanced_weights,
    binary_cross_entropy,
    cross_entropy,
    distillation,
    positive_weights,
)

LABELS = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2])


def test_balanced_weights_are_scikit_learns() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    assert balanced_weights(LABELS, 3).tolist() == pytest.approx(expected.tolist())


def test_an_empty_class_weighs_nothing() -> None:
    assert balanced_weights(LABELS, 4)[3] == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_over_all_images_it_is_torchs_weighted_loss(smoothing: float) -> None:
    logits, weights = torch.randn(8, 3), balanced_weights(LABELS, 3)
    found = cross_entropy(logits, LABELS, smoothing=smoothing, weights=weights)
    expected = F.cross_entropy(logits, LABELS, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_shares_of_one_class_weigh_like_its_label(smoothing: float) -> None:
    logits, weights = torch.randn(3, 3), torch.tensor([0.5, 2.0, 1.0])
    labels = torch.tensor([0, 0, 1])  # whose weights do not add up to their number
    hard = cross_entropy(logits, labels, smoothing=smoothing, weights=weights)
    shares = F.one_hot(labels, 3).float()
    soft = cross_entropy(logits, shares, smoothing=smoothing, weights=weights)
    torch.testing.assert_close(soft, hard)


def test_mixed_shares_weigh_by_class() -> None:
    logits, weights = torch.randn(1, 2), torch.tensor([1.0, 3.0])
    first, second = -logits.log_softmax(dim=1)[0]
    expected = 0.25 * first + 0.75 * 3 * second
    found = cross_entropy(logits, torch.tensor([[0.25, 0.75]]), weights=weights)
    torch.testing.assert_close(found, expected)


def test_two_halves_of_a_batch_give_the_loss_of_the_whole() -> None:
    logits, weights = torch.randn(8, 3), balanced_weights(LABELS, 3)
    halves = [
        cross_entropy(logits[rows], LABELS[rows], weights=weights)
        for rows in (slice(4), slice(4, 8))
    ]
    whole = cross_entropy(logits, LABELS, weights=weights)
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def test_without_weights_it_is_torchs_loss() -> None:
    logits = torch.randn(8, 3)
    found = cross_entropy(logits, LABELS, smoothing=0.1)
    assert torch.equal(found, F.cross_entropy(logits, LABELS, label_smoothing=0.1))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_teachers_probabilities_count_by_their_divergence(temperature: float) -> None:
    logits, teacher = torch.randn(4, 3), torch.randn(4, 3)
    total = 0.0
    for row, wanted in zip(
        logits.double() / temperature, teacher.double() / temperature, strict=True
    ):
        p, q = wanted.exp() / wanted.exp().sum(), row.exp() / row.exp().sum()
        total += float((p * (p / q).log()).sum())
    found = distillation(logits, teacher, temperature=temperature)
    assert float(found) == pytest.approx(temperature**2 * total / 4, rel=1e-5)


def test_a_hard_teacher_counts_as_a_label() -> None:
    logits, teacher = torch.randn(4, 3), torch.randn(4, 3)
    expected = -logits.log_softmax(dim=1)[range(4), teacher.argmax(dim=1)].mean()
    torch.testing.assert_close(distillation(logits, teacher, hard=True), expected)


def several() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    targets = (torch.rand(8, 3, generator=draws) < 0.4).to(torch.int8)
    return torch.randn(8, 3, generator=draws), targets


def test_the_loss_of_several_classes_is_a_plain_loops() -> None:
    logits, targets = several()
    weights, smoothing = positive_weights(targets), 0.1
    total = 0.0
    for row, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        for logit, label, weight in zip(row, wanted, weights.tolist(), strict=True):
            share, p = 0.9 * label + 0.05, 1 / (1 + math.exp(-logit))
            total -= weight * share * math.log(p) + (1 - share) * math.log(1 - p)
    found = binary_cross_entropy(logits, targets, smoothing=smoothing, weights=weights)
    assert float(found) == pytest.approx(total / 24, rel=1e-5)


def test_the_loss_of_several_classes_is_scikit_learns() -> None:
    logits, targets = several()
    expected = [log_loss(targets[:, k], logits[:, k].sigmoid()) for k in range(3)]
    assert float(binary_cross_entropy(logits, targets)) == pytest.approx(
        sum(expected) / 3, rel=1e-5
    )


def test_weights_of_positives_make_both_sides_of_each_class_count_alike() -> None:
    _, targets = several()
    for k, weight in enumerate(positive_weights(targets).tolist()):
        balanced = compute_class_weight(
            "balanced", classes=np.array([0, 1]), y=targets[:, k].numpy()
        )
        assert weight == pytest.approx(balanced[1] / balanced[0])


def test_a_class_that_all_images_have_still_has_a_loss() -> None:
    targets = torch.tensor([[1, 0], [1, 1], [1, 0]], dtype=torch.int8)
    assert positive_weights(targets).tolist() == [1.0, 2.0]
