"""How good a classifier is: scores, calibration, scores of each class; tensors in, tables out.

logits (n, K), labels (n,) -> scores, temperature, bins of reliability (15,), confusion (K, K)

Shares of images come with their 95 % interval (Wilson): how far they would stray had other images
of the same kind been drawn. It knows nothing of what another training would give.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from vitlit.evaluation.significance import wilson

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


def summary_scores(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Numbers about all images: logits float ``(n, K)``, labels int64 ``(n,)``.

    images; acc, acc5 (K above 5) with intervals; loss in nats; balanced_acc, the mean recall of the
    classes there are; f1, the mean over the classes that are there or predicted; ece, the expected
    calibration error.
    """
    count, classes = logits.shape
    table: dict[str, Any] = {"images": count}
    for name, among in (("acc", 1), ("acc5", 5))[: 2 if classes > 5 else 1]:
        right = int((logits.topk(among, dim=1).indices == labels[:, None]).sum())
        table |= {name: right / count, f"{name}_interval": list(wilson(right, count))}
    by_class = class_scores(logits, labels)
    has_images, is_named = by_class["images"] > 0, by_class["predicted"] > 0
    return table | {
        "loss": mean_loss(logits, labels),
        "balanced_acc": balanced_accuracy(logits, labels),
        "f1": float(by_class["f1"][has_images | is_named].mean()),
        "ece": calibration_error(logits, labels),
    }


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The mean recall of the classes that have images."""
    found = class_scores(logits, labels)
    return float(found["recall"][found["images"] > 0].mean())


def class_scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of each class, ``(K,)``: precision, recall, f1, images it has, and images predicted as it.

    A share of no images is 0, as in scikit-learn.
    """
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    options: Any = {"num_classes": classes, "average": "none", "validate_args": False}
    return {
        "precision": multiclass_precision(predicted, labels, **options),
        "recall": multiclass_recall(predicted, labels, **options),
        "f1": multiclass_f1_score(predicted, labels, **options),
        "images": labels.bincount(minlength=classes),
        "predicted": predicted.bincount(minlength=classes),
    }


def class_table(
    logits: Tensor, labels: Tensor, class_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """:func:`class_scores` by name of the class."""
    columns = {name: values.tolist() for name, values in class_scores(logits, labels).items()}
    return {
        class_name: {column: values[i] for column, values in columns.items()}
        for i, class_name in enumerate(class_names)
    }


def confusion_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images of each class (row) were taken for each class (column): int64 ``(K, K)``."""
    predicted = logits.argmax(dim=1)
    return multiclass_confusion_matrix(predicted, labels, logits.shape[1], validate_args=False)


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


def most_confident_mistakes(logits: Tensor, labels: Tensor, most: int) -> Tensor:
    """Rows that are wrong, those of the highest confidence first, at most ``most`` of them."""
    confidence, predicted = logits.float().softmax(dim=1).max(dim=1)
    wrong = (predicted != labels).nonzero()[:, 0]
    order = confidence[wrong].argsort(descending=True, stable=True)
    return wrong[order][:most]
