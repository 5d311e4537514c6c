"""Selective classification: what is left, and how often right, if unsure images get no class.

confidence (n,), right (n,) -> coverage and accuracy by threshold (m,), area under the risk

Geifman & El-Yaniv (2017), Selective Classification for Deep Neural Networks.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.evaluation.significance import wilson

COVERAGES = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5)  # listed in a report


class RiskCoverage(NamedTuple):
    """By threshold, from the highest, each ``(m,)``: images that reach it, and right ones of them.

    Images of equal confidence are kept or left out together. images: how many there are in all.
    """

    threshold: Tensor
    kept: Tensor
    right: Tensor
    images: int

    @property
    def coverage(self) -> Tensor:
        """Share of the images that get a class."""
        return self.kept / self.images

    @property
    def accuracy(self) -> Tensor:
        """Share of these that are right."""
        return self.right / self.kept


def risk_coverage(confidence: Tensor, right: Tensor) -> RiskCoverage:
    """The curve of all thresholds. confidence: float ``(n,)``; right: bool ``(n,)``."""
    order = confidence.argsort(descending=True, stable=True)
    values, hits = confidence[order], right[order].long().cumsum(0)
    is_last = torch.ones_like(values, dtype=torch.bool)  # the last one of equal confidences
    is_last[:-1] = values[:-1] != values[1:]
    kept = torch.arange(1, len(values) + 1)[is_last]
    return RiskCoverage(values[is_last], kept, hits[is_last], len(values))


def area_under_risk(curve: RiskCoverage) -> float:
    """Mean, over the images, of the share of mistakes at the threshold of their confidence: AURC.

    0 if all are right; that of a random order is the share of mistakes.
    """
    kept = curve.kept.double()
    added = kept.diff(prepend=kept.new_zeros(1))
    return float(((1 - curve.right / kept) * added).sum() / curve.images)


def selective_table(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """For metrics.json: aurc; by coverage the threshold that leaves it, and the accuracy there.

    Each threshold is the highest that leaves at least that share of the images.
    """
    curve = curve_of(logits, labels)
    rows = []
    for coverage in COVERAGES:
        # a little less: 0.7 * 10 is more than 7 in floating point
        at = int((curve.kept >= coverage * curve.images - 1e-6).nonzero()[0])
        kept, right = int(curve.kept[at]), int(curve.right[at])
        rows.append(
            {
                "threshold": float(curve.threshold[at]),
                "coverage": kept / curve.images,
                "acc": right / kept,
                "acc_interval": list(wilson(right, kept)),
            }
        )
    return {"aurc": area_under_risk(curve), "thresholds": rows}


def curve_of(logits: Tensor, labels: Tensor) -> RiskCoverage:
    """The curve of a classifier's most probable classes: logits ``(n, K)``, labels ``(n,)``."""
    confidence, predicted = logits.float().softmax(dim=1).max(dim=1)
    return risk_coverage(confidence, predicted == labels)


def selective_words(table: dict[str, Any]) -> str:
    """In words, what abstaining on a tenth of the images would gain."""
    row = table["thresholds"][COVERAGES.index(0.9)]
    return (
        f"giving no class below probability {row['threshold']:.4f} keeps {row['coverage']:.1%} of "
        f"the images, with accuracy {row['acc']:.4f}; metrics.json has other thresholds"
    )
