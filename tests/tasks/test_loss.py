"""The weighted loss, against torch's own and sums by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from vitlit.tasks.loss import balanced_weights, cross_entropy, distillation

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
