"""Calibration: how well confidence matches accuracy, and the temperature that corrects it.
Selective classification: what is left, and how often right, if unsure images get no class.

logits (n, K), labels (n,) -> expected calibration error, reliability, temperature
confidence (n,), right (n,) -> coverage and accuracy by threshold (m,), area under the risk

Guo et al. (2017), On Calibration of Modern Neural Networks. Geifman & El-Yaniv (2017), Selective
Classification for Deep Neural Networks.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.evaluation.significance import wilson

CONFIDENCE_BINS = 15  # as in Guo et al. (2017)
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # ends of the range that is searched
COVERAGES = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5)  # listed in a report
SEARCH_HALVINGS = 30  # of that range, on a log scale: the temperature is right to 1 part in 10**8


class Reliability(NamedTuple):
    """By bin of confidence, each ``(15,)``: mean confidence, accuracy, number of images.

    Bin i holds confidences in (i/15, (i+1)/15]; an empty bin has confidence and accuracy 0.
    """

    confidence: Tensor
    accuracy: Tensor
    images: Tensor


class Calibration(NamedTuple):
    """A temperature that divides logits, and the loss on the images it was fitted on, in nats."""

    temperature: float
    loss_before: float
    loss_after: float
    images: int

    @property
    def is_at_limit(self) -> bool:
        """Whether the best temperature lies beyond the range: too few images, or all right."""
        # halving comes within 1e-8 of an end but never reaches it, hence the margin
        return not MIN_TEMPERATURE * 1.001 < self.temperature < MAX_TEMPERATURE / 1.001


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    # float64: the loss of a confident right answer is a small difference of large numbers
    return float(F.cross_entropy(logits.double(), labels))


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error over 15 bins of equal width (Naeini et al., 2015).

    The mean over the bins of |confidence - accuracy|, weighted by the number of images.
    """
    confidence, accuracy, images = reliability(logits, labels)
    return float(((confidence - accuracy).abs() * images).sum() / images.sum())


def reliability(logits: Tensor, labels: Tensor) -> Reliability:
    """Confidence (the highest probability) and accuracy of the images, by bin of confidence."""
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    # ceil - 1, not floor: a bin includes its upper edge, so that confidence 1 has a bin
    places = (confidence * CONFIDENCE_BINS).ceil().long().clamp(1, CONFIDENCE_BINS) - 1
    count = places.bincount(minlength=CONFIDENCE_BINS)
    sums = places.bincount(confidence, minlength=CONFIDENCE_BINS)
    right = places.bincount((predicted == labels).double(), minlength=CONFIDENCE_BINS)
    filled = count.clamp(min=1)  # empty bins give 0, not NaN
    return Reliability(sums / filled, right / filled, count)


def fit_temperature(logits: Tensor, labels: Tensor) -> Calibration:
    """The temperature T for which softmax(logits / T) has the lowest loss (Guo et al., 2017).

    Fit it on images that are neither trained on nor scored. The loss is convex in 1/T, so its slope
    changes sign once, and bisection over log T finds where. The temperature never raises the loss.
    """
    values = logits.double()  # the slope is a difference of means that are nearly equal at the end
    own = values.gather(1, labels[:, None])[:, 0]  # the logit of each image's true class

    def slope(scale: float) -> float:
        """The derivative of the loss by 1/T, at 1/T = ``scale``."""
        mean = ((values * scale).softmax(dim=1) * values).sum(dim=1)
        return float((mean - own).mean())

    low, high = math.log(1 / MAX_TEMPERATURE), math.log(1 / MIN_TEMPERATURE)  # log(1/T)
    for _ in range(SEARCH_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    before = mean_loss(values, labels)
    temperature = math.exp(-(low + high) / 2)
    after = mean_loss(values / temperature, labels)
    if after >= before:  # for example if all logits are equal, so that every T has the same loss
        temperature, after = 1.0, before
    return Calibration(temperature, before, after, len(labels))


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
    everything, row = (table["thresholds"][COVERAGES.index(share)] for share in (1.0, 0.9))
    if row["acc"] <= everything["acc"]:
        return "the least probable answers are not wrong more often than the others"
    return (
        f"giving no class below probability {row['threshold']:.4f} keeps {row['coverage']:.1%} of "
        f"the images, with accuracy {row['acc']:.4f}; metrics.json has other thresholds"
    )
