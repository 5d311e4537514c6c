"""Scores of a classifier, over all images and for each class: tensors in, tables out.

logits (n, K), labels (n,) -> scores, scores by class (K,), confused pairs (p,), mistakes (m,)

Accuracies come with their 95 % interval (Wilson), which covers the choice of the images: how much
the number would vary if other images of the same kind were drawn. It does not cover the variation
between trainings.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
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


class Confusion(NamedTuple):
    """Number of images by true and predicted class, of the m pairs that occur alone.

    The matrix of all pairs would take 4 GB for 21,841 classes, while n images have at most n pairs.

    true, predicted: the classes of each pair, counts: its images, int64 ``(m,)``; classes: K.
    """

    true: Tensor
    predicted: Tensor
    counts: Tensor
    classes: int

    @property
    def right(self) -> Tensor:
        """Images of each class that were recognised: int64 ``(K,)``."""
        is_right = self.true == self.predicted
        return self._sums(self.true[is_right], self.counts[is_right])

    @property
    def of_true(self) -> Tensor:
        """Images of each true class: int64 ``(K,)``."""
        return self._sums(self.true, self.counts)

    @property
    def of_predicted(self) -> Tensor:
        """Images predicted as each class: int64 ``(K,)``."""
        return self._sums(self.predicted, self.counts)

    def among(self, kept: Tensor) -> Tensor:
        """The matrix of some classes, int64 ``(k,)``, true ones in rows: int64 ``(k, k)``."""
        place = torch.full((self.classes,), -1).index_put((kept,), torch.arange(len(kept)))
        row, column = place[self.true], place[self.predicted]
        is_kept = (row >= 0) & (column >= 0)
        matrix = torch.zeros(len(kept), len(kept), dtype=torch.int64)
        return matrix.index_put((row[is_kept], column[is_kept]), self.counts[is_kept])

    def _sums(self, classes: Tensor, counts: Tensor) -> Tensor:
        # not bincount with weights, which adds up floats
        zeros = torch.zeros(self.classes, dtype=torch.int64)
        return zeros.index_add(0, classes, counts)


def confusion_counts(logits: Tensor, labels: Tensor) -> Confusion:
    """How often each class is taken for which one."""
    return pair_counts(labels, logits.argmax(dim=1), logits.shape[1])


def pair_counts(labels: Tensor, predicted: Tensor, classes: int) -> Confusion:
    """Like :func:`confusion_counts`, of predicted classes, int64 ``(n,)`` as the labels are."""
    pairs, counts = torch.unique(labels * classes + predicted, return_counts=True)
    return Confusion(pairs // classes, pairs % classes, counts, classes)


def most_confident_mistakes(logits: Tensor, labels: Tensor, most: int) -> Tensor:
    """Rows with wrong predictions, the most confident first, at most ``most``: int64 ``(m,)``."""
    confidence, predicted = logits.float().softmax(dim=1).max(dim=1)
    wrong = (predicted != labels).nonzero()[:, 0]
    order = confidence[wrong].argsort(descending=True, stable=True)  # equal ones in their order
    return wrong[order][:most]
