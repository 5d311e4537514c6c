"""Average precision, F1 and thresholds of several classes an image, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from vitlit.tasks import multi_label_scores
from vitlit.tasks.multi_label_scores import (
    MultiLabelScores,
    MultiLabelSums,
    average_precision,
    best_thresholds,
)


def answers(*, rounded: bool = False) -> tuple[Tensor, Tensor]:
    """Logits and targets of 200 images and 6 classes; the last has no image. rounded: with ties."""
    draws = torch.Generator().manual_seed(0)
    targets = (torch.rand(200, 6, generator=draws) < torch.arange(1, 7) / 8).to(torch.int8)
    targets[:, 5] = 0
    logits = torch.randn(200, 6, generator=draws) + targets
    return (logits * 2).round() / 2 if rounded else logits, targets


@pytest.mark.parametrize("rounded", [False, True])
def test_average_precision_is_scikit_learns(rounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_label_scores, "CHUNK_NUMBERS", 800)  # four classes at once
    logits, targets = answers(rounded=rounded)
    found = average_precision(logits, targets)
    expected = [sk.average_precision_score(targets[:, k], logits[:, k]) for k in range(5)]
    assert found[:5].tolist() == pytest.approx(expected, abs=1e-12)
    assert found[5].isnan()


@pytest.mark.parametrize("rounded", [False, True])
def test_no_threshold_has_a_higher_f1_than_the_one_that_is_found(rounded: bool) -> None:
    logits, targets = answers(rounded=rounded)
    probabilities = logits.sigmoid()
    thresholds = best_thresholds(probabilities, targets)
    for k in range(5):
        own, has = probabilities[:, k], targets[:, k]
        cuts = [-1.0, *own.tolist()]  # every way to divide them
        best = max(sk.f1_score(has, own > torch.tensor(cut)) for cut in cuts)
        assert sk.f1_score(has, own > thresholds[k]) == best
        assert not (own == thresholds[k]).any()  # half-way, not at an image
    assert thresholds[5] == 0.5


def test_a_threshold_between_neighbours_of_float32_divides_them() -> None:
    low = torch.tensor(0.3)
    high = torch.nextafter(low, torch.tensor(1.0))
    probabilities = torch.stack([high, low])[:, None]
    [threshold] = best_thresholds(probabilities, torch.tensor([[1], [0]], dtype=torch.int8))
    assert (probabilities[:, 0] > threshold).tolist() == [True, False]


def test_scores_of_a_split_are_scikit_learns_without_the_rows_that_fill_a_batch() -> None:
    logits, targets = answers()
    thresholds = torch.full((6,), 0.6)
    scores = MultiLabelScores(thresholds)
    scores.update(logits[:150], targets[:150])
    filled = torch.cat([targets[150:], torch.full((10, 6), -1, dtype=torch.int8)])
    scores.update(torch.cat([logits[150:], torch.full((10, 6), 9.0)]), filled)
    found = {name: float(value) for name, value in scores.compute().items()}
    given = (logits.sigmoid() > 0.6).numpy()
    each = [
        sk.log_loss(targets[:, k], logits[:, k].double().sigmoid(), labels=[0, 1]) for k in range(6)
    ]
    assert found == pytest.approx(
        {
            "count": 200,
            "map": np.mean(
                [sk.average_precision_score(targets[:, k], logits[:, k]) for k in range(5)]
            ),
            "f1": sk.f1_score(targets, given, average="macro", zero_division=0),
            "loss": np.mean(each),
        },
        rel=1e-5,
    )


def test_scores_of_two_processes_are_those_of_all_their_images() -> None:
    logits, targets = answers()
    alone, first = (MultiLabelScores(torch.full((6,), 0.5)) for _ in range(2))
    alone.update(logits, targets)
    first.update(logits[::2], targets[::2])
    theirs = iter([logits[1::2], targets[1::2]])
    found = first.compute(gather=lambda own: torch.cat([own, next(theirs)]))
    expected = {name: float(value) for name, value in alone.compute().items()}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)


def test_without_images_all_scores_are_0() -> None:
    scores = MultiLabelScores(torch.full((6,), 0.5))
    scores.update(torch.zeros(3, 6), torch.full((3, 6), -1, dtype=torch.int8))
    assert set(scores.compute()) == {"count", "loss", "map", "f1"}
    assert not any(map(float, scores.compute().values()))


def test_the_f1_of_an_epoch_is_that_of_all_its_labels() -> None:
    logits, targets = answers()
    sums = MultiLabelSums(torch.device("cpu"))
    for part in range(0, 200, 50):
        rows = slice(part, part + 50)
        sums.add(torch.tensor(2.0 + part), logits[rows], targets[rows])
    found = sums.means()
    assert float(found["f1"]) == pytest.approx(sk.f1_score(targets, logits > 0, average="micro"))
    assert float(found["loss_epoch"]) == pytest.approx(2 + 75)
    other = MultiLabelSums(torch.device("cpu"))
    other.restore(sums.sums())
    assert other.means() == found
