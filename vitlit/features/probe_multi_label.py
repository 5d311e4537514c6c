"""What features tell of images of several classes: neighbours' shares, a regression of each class.

features (n, D), targets (n, K) of training images -> logits (m, K), thresholds (K,) -> scores
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vitlit.evaluation.multi_label_report import (
    bootstrap_intervals,
    multi_label_classes,
    multi_label_summary,
)
from vitlit.features.probe_classifiers import Neighbours
from vitlit.messages import labelled
from vitlit.tasks.multi_label_scores import average_precision, best_thresholds


def neighbour_shares(neighbours: Neighbours, targets: Tensor) -> Tensor:
    """The share of each query's neighbours that have each class: float32 ``(m, K)``."""
    return targets[neighbours.row].float().mean(dim=1)


def mean_precision(scores: Tensor, targets: Tensor) -> float:
    """Mean average precision over the classes that have images; 0 if none has."""
    return float(average_precision(scores, targets).nanmean().nan_to_num())


def neighbour_scores(shares: Tensor, targets: Tensor) -> dict[str, Any]:
    """Scores of neighbours' shares ``(n, K)``, for metrics.json."""
    ends = bootstrap_intervals(shares, targets, shares > 0.5)
    return {"map": mean_precision(shares, targets), "map_interval": ends["map_interval"]}


def linear_scores(
    logits: Tensor,
    targets: Tensor,
    val: tuple[Tensor, Tensor],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Scores of logits ``(n, K)``, for metrics.json, as a report of ``test`` has them.

    val: logits and targets of the validation images, on which the thresholds are fitted.
    """
    # float32 as in a checkpoint: logits that lie close together may become equal, or not
    own, others = logits.float(), val[0].float()
    thresholds = best_thresholds(others.sigmoid(), val[1])
    return {
        **multi_label_summary(own, targets, thresholds),
        "thresholds": thresholds.tolist(),
        "classes": multi_label_classes(own, targets, thresholds, class_names),
    }


def class_lines(name: str, found: dict[str, Any], how: str) -> list[str]:
    """The lines that report scores. how: what computed them."""
    text = f"test/map {found['map']:.4f}"
    if (ends := found["map_interval"]) is not None:
        text += f" ({ends[0]:.4f} to {ends[1]:.4f}, 95 %)"
    if "f1" not in found:
        return [labelled(name, f"{text}  {how}")]
    cuts = found["thresholds"]
    return [
        labelled(name, f"{text}  test/f1 {found['f1']:.4f}  {how}"),
        labelled("thresholds", f"{min(cuts):.3f} to {max(cuts):.3f}, fitted on validation images"),
    ]
