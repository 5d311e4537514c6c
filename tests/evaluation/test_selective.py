"""What is left, and how often right, if unsure images get no class."""

import pytest
import torch

from vitlit.evaluation.calibration import (
    COVERAGES,
    area_under_risk,
    risk_coverage,
    selective_table,
    selective_words,
)
from vitlit.evaluation.significance import wilson


@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_the_curve_is_that_of_a_slow_loop_over_thresholds(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    confidence = torch.randint(0, levels, (60,), generator=generator) / levels
    right = torch.rand(60, generator=generator) < confidence
    curve = risk_coverage(confidence, right)
    expected = []
    for threshold in sorted(set(confidence.tolist()), reverse=True):
        kept = [bool(hit) for hit, sure in zip(right, confidence, strict=True) if sure >= threshold]
        expected.append((threshold, len(kept) / 60, sum(kept) / len(kept)))
    found = torch.stack([curve.threshold, curve.coverage, curve.accuracy], dim=1)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    risks = [
        1 - next(acc for threshold, _, acc in expected if threshold == float(one))
        for one in confidence
    ]
    assert area_under_risk(curve) == pytest.approx(sum(risks) / 60)


def test_the_area_is_0_if_all_are_right_and_1_if_none_is() -> None:
    confidence = torch.linspace(0, 1, 9)
    assert area_under_risk(risk_coverage(confidence, torch.ones(9).bool())) == 0
    assert area_under_risk(risk_coverage(confidence, torch.zeros(9).bool())) == 1


def test_thresholds_leave_at_least_the_share_and_as_little_more_as_can_be() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 4, generator=generator)
    labels = torch.randint(0, 4, (200,), generator=generator)
    sure, said = logits.softmax(dim=1).max(dim=1)
    table = selective_table(logits, labels)
    for row, share in zip(table["thresholds"], COVERAGES, strict=True):
        kept = sure >= row["threshold"]
        count, right = int(kept.sum()), int((said == labels)[kept].sum())
        assert count == round(share * 200)
        assert row["coverage"] == pytest.approx(share)
        assert row["acc"] == pytest.approx(right / count)
        assert row["acc_interval"] == list(wilson(right, count))
    assert table["thresholds"][0]["acc"] == int((said == labels).sum()) / 200


def test_in_words_it_is_what_a_tenth_without_answers_gains() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=generator)
    noise = torch.randn(200, 4, generator=generator)
    table = selective_table(3 * noise + 5 * torch.eye(4)[labels], labels)
    nine = table["thresholds"][4]
    assert nine["acc"] > table["thresholds"][0]["acc"]
    assert (
        f"below probability {nine['threshold']:.4f} keeps 90.0% of the images"
        in selective_words(table)
    )


def test_images_of_equal_confidence_go_together() -> None:
    table = selective_table(torch.zeros(10, 2), torch.tensor([0] * 7 + [1] * 3))
    assert {row["coverage"] for row in table["thresholds"]} == {1.0}
    assert {row["acc"] for row in table["thresholds"]} == {0.7}


def test_if_the_least_probable_answers_are_right_it_says_that_nothing_is_gained() -> None:
    logits = torch.tensor([[3.0, 0.0]] * 5 + [[1.0, 0.0]] * 5)
    table = selective_table(logits, torch.tensor([1] * 5 + [0] * 5))
    assert "not wrong more often than the others" in selective_words(table)
