"""Calibration: how well confidence matches accuracy, and the temperature that corrects it.

logits (n, K), labels (n,) -> expected calibration error, reliability, temperature

Guo et al. (2017), On Calibration of Modern Neural Networks.
"""

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

CONFIDENCE_BINS = 15  # as in Guo et al. (2017)
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # ends of the range that is searched
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
