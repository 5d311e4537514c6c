"""Calibration: how far confidence can be believed, and the temperature that fixes it.

Guo et al. (2017), On Calibration of Modern Neural Networks.

logits (n, K), labels (n,) -> expected calibration error, reliability, temperature"""

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

CONFIDENCE_BINS = 15  # of confidence, as in Guo et al. (2017)
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # temperatures that are tried
SEARCH_HALVINGS = 30  # of the range of temperatures, on a log scale: to one part in 10**8


class Reliability(NamedTuple):
    """By bin of confidence, each ``(15,)``: mean confidence, share right, number of images.

    Bin i holds confidences in (i/15, (i+1)/15]; an empty one has confidence and share 0.
    """

    confidence: Tensor
    accuracy: Tensor
    images: Tensor


class Calibration(NamedTuple):
    """A temperature that logits are divided by, and the loss where it was fitted."""

    temperature: float
    loss_before: float
    loss_after: float
    images: int

    @property
    def is_at_limit(self) -> bool:
        """Whether no temperature in reach was best: too few images, or all right."""
        return not MIN_TEMPERATURE * 1.001 < self.temperature < MAX_TEMPERATURE / 1.001


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    return float(F.cross_entropy(logits.double(), labels))


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error over 15 bins of equal width (Naeini et al., 2015).

    The mean distance of a bin's confidence from the share that is right, weighted by images.
    """
    probabilities = logits.float().softmax(dim=1)
    classes = logits.shape[1]
    return float(
        multiclass_calibration_error(
            probabilities, labels, classes, n_bins=CONFIDENCE_BINS, validate_args=False
        )
    )


def reliability(logits: Tensor, labels: Tensor) -> Reliability:
    """What is right among the images of each bin of confidence, the highest probability."""
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    places = (confidence * CONFIDENCE_BINS).ceil().long().clamp(1, CONFIDENCE_BINS) - 1
    count = places.bincount(minlength=CONFIDENCE_BINS)
    sure = places.bincount(confidence, minlength=CONFIDENCE_BINS) / count.clamp(min=1)
    right = places.bincount(
        (predicted == labels).double(), minlength=CONFIDENCE_BINS
    ) / count.clamp(min=1)
    return Reliability(sure, right, count)


def fit_temperature(logits: Tensor, labels: Tensor) -> Calibration:
    """The temperature T for which softmax(logits / T) has the lowest loss (Guo et al., 2017).

    Fit it on images that are neither trained on nor scored. The loss is convex in 1/T, so its slope
    changes sign once, and halving the range of log T finds where. It never raises the loss.
    """
    values = logits.double()
    own = values.gather(1, labels[:, None])[:, 0]

    def slope(scale: float) -> float:
        """Of the loss over 1/T, here ``scale``."""
        mean = ((values * scale).softmax(dim=1) * values).sum(dim=1)
        return float((mean - own).mean())

    low, high = math.log(1 / MAX_TEMPERATURE), math.log(1 / MIN_TEMPERATURE)  # of 1/T
    for _ in range(SEARCH_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    before = mean_loss(values, labels)
    temperature = math.exp(-(low + high) / 2)
    after = mean_loss(values / temperature, labels)
    if after >= before:  # as where all logits are equal, and every temperature is
        temperature, after = 1.0, before
    return Calibration(temperature, before, after, len(labels))
