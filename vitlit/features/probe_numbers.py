"""What numbers features tell: the mean of the nearest neighbours, and ridge regression.

features (n, D), targets (n, 1) of training images -> answers (m, 1) for other features (m, D)
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.evaluation.inference import Rows
from vitlit.features.probe_classifiers import FIT_ROWS, STRENGTHS, LinearClassifier, Neighbours
from vitlit.messages import labelled
from vitlit.tasks.regression import Regression
from vitlit.tasks.regression_scores import error_intervals, error_scores


def neighbour_mean(neighbours: Neighbours, targets: Tensor) -> Tensor:
    """The mean target of each query's neighbours: ``(m, 1)``."""
    return targets[neighbours.row].mean(dim=1)


def fit_ridge(features: Tensor, targets: Tensor, *, c: float) -> LinearClassifier:
    """Linear regression with an L2 penalty, in closed form: weight ``(1, D)``, bias ``(1,)``.

    Minimises the sum of squared errors + |weight|^2 / c, as scikit-learn's Ridge(alpha=1 / c) does;
    the bias is not penalised.
    """
    width = features.shape[1]
    middle, mean = features.double().mean(dim=0), targets.double().mean(dim=0)
    gram = torch.eye(width, dtype=torch.float64) / c
    moment = torch.zeros(width, 1, dtype=torch.float64)
    # part by part: a float64 copy of all features may not fit the memory
    for x, y in zip(torch.split(features, FIT_ROWS), torch.split(targets, FIT_ROWS), strict=True):
        centred = x.double() - middle
        gram += centred.T @ centred
        moment += centred.T @ (y.double() - mean)
    weight = torch.linalg.solve(gram, moment).T
    return LinearClassifier(weight, mean - weight @ middle)


def choose_ridge(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]
) -> tuple[LinearClassifier, float]:
    """The regression with the lowest squared error on the validation images, and its C.

    train, val: features and targets. In a tie the stronger penalty wins.
    """
    found = [(fit_ridge(*train, c=c), c) for c in STRENGTHS]  # the strongest penalty first
    errors = [float((answers_of(one, val[0]) - val[1]).square().mean()) for one, _ in found]
    return found[errors.index(min(errors))]


def answers_of(linear: LinearClassifier, features: Tensor) -> Tensor:
    """Answers to features ``(m, D)``: float64 ``(m, 1)``."""
    return F.linear(features.to(linear.weight), linear.weight, linear.bias)


def numbers_task(train: Rows) -> Regression:
    """The task of numbers, with the mean and standard deviation of these training targets."""
    return Regression(Regression({}).learned(train.labels))


def standardised(rows: Rows, train: Rows) -> tuple[Tensor, Tensor]:
    """Features, and targets as a training learns them, with the statistics of ``train``."""
    task = numbers_task(train)
    return rows.values, (rows.labels.double() - task.mean) / task.std


def number_scores(answers: Tensor, targets: Tensor) -> dict[str, Any]:
    """Scores of answers and targets, both ``(n, 1)``, with intervals, for metrics.json."""
    pair = (answers[:, 0], targets[:, 0])
    ends = {f"{name}_interval": found for name, found in error_intervals(*pair).items()}
    return {**error_scores(*pair), **ends}


def number_line(name: str, found: dict[str, Any], how: str) -> str:
    """The line that reports scores. how: what computed them."""
    low, high = found["mae_interval"]
    text = f"{found['mae']:.4f} ({low:.4f} to {high:.4f}, 95 %), R2 {found['r2']:.4f}"
    return labelled(name, f"test/mae {text}  {how}")
