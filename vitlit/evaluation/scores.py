"""Scores of a classifier, over all images and for each class: tensors in, tables out.

logits (n, K), labels (n,) -> scores, scores by class (K,), confusion (K, K), mistakes (m,)

Accuracies come with their 95 % interval (Wilson), which covers the choice of the images: how much
the number would vary if other images of the same kind were drawn. It does not cover the variation
between trainings.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vitlit.evaluation.calibration import calibration_error, mean_loss
from vitlit.evaluation.significance import wilson


def summary_scores(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Numbers about all images: logits float ``(n, K)``, labels int64 ``(n,)``.

    images; acc, acc5 (K above 5) with intervals; loss in nats; balanced_acc, the mean recall of the
    classes that have images; f1, the mean over the classes that have images or predictions; ece,
    the expected calibration error.
    """
    count, classes = logits.shape
    table: dict[str, Any] = {"images": count}
    for name, among in (("acc", 1), ("acc5", 5))[: 2 if classes > 5 else 1]:
        # argmax, as everywhere else: of equal logits, which bfloat16 often gives, topk takes any
        best = logits.argmax(dim=1)[:, None] if among == 1 else logits.topk(among, dim=1).indices
        right = int((best == labels[:, None]).sum())
        table |= {name: right / count, f"{name}_interval": list(wilson(right, count))}
    by_class = class_scores(logits, labels)
    # as scikit-learn's macro average: a class without images and predictions does not count
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
    """For each class, ``(K,)``: precision, recall, f1, its images, and images predicted as it.

    A ratio with no images is 0, as in scikit-learn.
    """
    classes = logits.shape[1]  # not that of the labels: a class may have no image in this split
    answers = logits.argmax(dim=1)
    right, images, predicted = (
        found.bincount(minlength=classes) for found in (labels[answers == labels], labels, answers)
    )
    return {
        "precision": right / predicted.clamp(min=1),
        "recall": right / images.clamp(min=1),
        "f1": 2 * right / (images + predicted).clamp(min=1),  # the harmonic mean of the two above
        "images": images,
        "predicted": predicted,
    }


def class_table(
    logits: Tensor, labels: Tensor, class_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """:func:`class_scores` by class name, as plain numbers."""
    columns = {name: values.tolist() for name, values in class_scores(logits, labels).items()}
    return {
        class_name: {column: values[i] for column, values in columns.items()}
        for i, class_name in enumerate(class_names)
    }


def confusion_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of images by true class (row) and predicted class (column): int64 ``(K, K)``."""
    return pair_counts(labels, logits.argmax(dim=1), logits.shape[1])


def pair_counts(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Like :func:`confusion_counts`, of predicted classes, int64 ``(n,)`` as the labels are."""
    return (labels * classes + predicted).bincount(minlength=classes**2).view(classes, classes)


def most_confident_mistakes(logits: Tensor, labels: Tensor, most: int) -> Tensor:
    """Rows with wrong predictions, the most confident first, at most ``most``: int64 ``(m,)``."""
    confidence, predicted = logits.float().softmax(dim=1).max(dim=1)
    wrong = (predicted != labels).nonzero()[:, 0]
    order = confidence[wrong].argsort(descending=True, stable=True)  # equal ones in their order
    return wrong[order][:most]
