"""Runs ``probe`` on a data set: the scores that its features reach.

ImageData -> features of train, val and the split to score -> probe/: metrics.json nearest.png
                                                              features.npz
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitlit.data.datamodule import PlainImageData
from vitlit.data.splits import Split
from vitlit.errors import InputError
from vitlit.evaluation.inference import Rows, checked, collect, loader_of
from vitlit.evaluation.significance import wilson
from vitlit.features.neighbour_figure import neighbour_sheet
from vitlit.features.probe_classifiers import (
    LinearClassifier,
    Neighbours,
    choose_linear,
    count_right,
    fit_linear,
    nearest,
    vote,
)
from vitlit.features.probe_multi_label import (
    class_lines,
    linear_scores,
    mean_precision,
    neighbour_scores,
    neighbour_shares,
)
from vitlit.features.probe_numbers import (
    choose_ridge,
    fit_ridge,
    neighbour_mean,
    number_lines,
    number_scores,
    numbers_task,
    standardised,
)
from vitlit.messages import counted, labelled, shorten
from vitlit.tasks.known import KINDS
from vitlit.tasks.task import TaskName

SHEET_QUERIES, SHEET_NEIGHBOURS = 6, 7  # rows of the picture, and neighbours in each
SHEET_LEGENDS: dict[TaskName, str] = {  # what the frames of neighbours say
    "single_label": "blue: of the same class, orange: of another",
    "multi_label": "blue: of the same classes, orange: of others",
    "regression": "",
}
MAX_FEATURE_VALUES = 5 * 10**7  # in features.npz: 200 MB; with more it is not written

Extract = Callable[[PlainImageData, Split], Rows]  # features (n, D) of a split


class Probed(NamedTuple):
    """Scores on the test images, as written to metrics.json, and lines that report them."""

    metrics: dict[str, Any]
    lines: list[str]


def extractor(compute: Callable[[Tensor], Tensor], device: torch.device) -> Extract:
    """A function that computes the features of a split with ``compute``, on ``device``."""

    def extract(data: PlainImageData, split: Split) -> Rows:
        rows = collect(data, loader_of(data, split), compute, device).rows()
        return checked(rows, split, f"{data.dataset} image")

    return extract


def probe_data_set(
    data: PlainImageData,
    extract: Extract,
    folder: Path,
    *,
    k: int,
    c: float | None,
    about: dict[str, Any],
    answer: Callable[[LinearClassifier], Extract] | None = None,
) -> Probed:
    """Fit on the training images, choose C on the validation images, score the test images.

    k: neighbours that vote; c: inverse strength of the L2 penalty, None to choose it; about: the
    model and its features, for metrics.json; answer: gives the function for the logits of a model
    with the linear classifier as its head, which are scored in place of the classifier's own.
    Writes metrics, features and, for some test images, a picture of their nearest training images.
    Raises InputError if k exceeds the training images.
    """
    set_up_probe(data, k)
    rows = {name: extract(data, data.splits[name]) for name in ("train", "val", "test")}
    train, val, test = rows["train"], rows["val"], rows["test"]
    # one search for the vote, which takes k, and for the picture, which shows seven
    near = nearest(test.values, train.values, max(k, SHEET_NEIGHBOURS))
    chosen = Neighbours(near.similarity[:, :k], near.row[:, :k])
    how = f", chosen on {len(val.labels)} validation images" if c is None else ""
    linear, c = _fit(data, rows, c)
    how = f"C {c:g}{how}"

    def logits(name: str) -> Tensor:
        if answer is None:
            return linear.logits(rows[name].values)
        return answer(linear)(data, data.splits[name]).values

    score, line = SCORES[data.task]
    found = score(Fitted(chosen, logits, rows, data.class_names))
    metrics: dict[str, Any] = {
        "of": about | _describe(data),
        "train_images": len(train.labels),
        "test_images": len(test.labels),
        "features": train.values.shape[1],
        "k": k,
        "c": c,
        **found,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    kept = _write_data_set(folder / "features.npz", rows, data.class_names)
    _sheet_of_data_set(data, near).savefig(folder / "nearest.png")
    counts = f"{counted(len(train.labels), 'image')} to learn from, {len(test.labels)} to score"
    lines = [
        labelled("data", f"{data.dataset}: {counts}"),
        *line("k-NN", metrics["knn"], f"{k} nearest of {len(train.labels)} by cosine"),
        *line("linear", metrics["linear"], how),
        *kept,
    ]
    return Probed(metrics, lines)


def _describe(data: PlainImageData) -> dict[str, Any]:
    return {
        "dataset": data.dataset,
        "data_dir": str(data.data_dir),
        "labels": data.hparams["labels"],
        "split_seed": data.hparams["split_seed"],
    }


class Fitted(NamedTuple):
    """What is scored. near: neighbours of the test images among the training images; logits: of a
    split by its name, by the linear classifier or by a model with it as its head; rows: features
    and labels of each split."""

    near: Neighbours
    logits: Callable[[str], Tensor]
    rows: dict[str, Rows]
    class_names: Sequence[str]


def _fit(
    data: PlainImageData, rows: dict[str, Rows], c: float | None
) -> tuple[LinearClassifier, float]:
    """The linear classifier and its C, by default the best one on the validation images."""
    # on validation: choosing by the test images would flatter the result
    train, val = rows["train"], rows["val"]
    if data.task == "regression":
        own = standardised(train, train)
        if c is None:
            return choose_ridge(own, standardised(val, train))
        return fit_ridge(*own, c=c), c
    if c is None:
        score = mean_precision if data.task == "multi_label" else count_right
        return choose_linear(train[:2], val[:2], data.num_classes, score)
    return fit_linear(*train[:2], data.num_classes, c=c), c


def _score_classes(fitted: Fitted) -> dict[str, Any]:
    """The accuracies of the neighbours' votes and of the linear classifier."""
    wanted, known = fitted.rows["test"].labels, fitted.rows["train"].labels
    voted = vote(fitted.near, known, len(fitted.class_names))
    return {
        "knn": _accuracy(voted == wanted),
        "linear": _accuracy(fitted.logits("test").argmax(dim=1) == wanted),
    }


def _score_several(fitted: Fitted) -> dict[str, Any]:
    """Average precision and F1 of the linear classifier, and the former of neighbours' shares."""
    wanted, known = fitted.rows["test"].labels, fitted.rows["train"].labels
    val = fitted.logits("val"), fitted.rows["val"].labels
    return {
        "knn": neighbour_scores(neighbour_shares(fitted.near, known), wanted),
        "linear": linear_scores(fitted.logits("test"), wanted, val, fitted.class_names),
    }


def _score_numbers(fitted: Fitted) -> dict[str, Any]:
    """The errors of the neighbours' mean and of the regression."""
    train, wanted = fitted.rows["train"], fitted.rows["test"].labels
    said = numbers_task(train).answers(fitted.logits("test"))
    return {
        "knn": number_scores(neighbour_mean(fitted.near, train.labels), wanted),
        "linear": number_scores(said, wanted),
    }


def _accuracy(right: Tensor) -> dict[str, Any]:
    """The share of right answers, bool ``(n,)``, and its interval."""
    count = int(right.sum())
    return {"acc": count / len(right), "acc_interval": list(wilson(count, len(right)))}


def set_up_probe(data: PlainImageData, k: int) -> None:
    """Prepare the three splits, once; refuses more neighbours than there are training images."""
    if data.split != "test":
        raise InputError(
            f"probe scores the test split, not {data.split}; leave out split", argument="split"
        )
    data.prepare_data()
    for stage in ("fit", "test"):
        data.setup(stage)
    train = data.splits["train"]
    KINDS[data.task].check_training(train.labels, data.class_names)
    count = len(train)
    if k > count:
        raise InputError(
            f"k {k} is more than the {count} training images; give {count} or less", argument="k"
        )


def _accuracy_lines(name: str, found: dict[str, Any], how: str) -> list[str]:
    low, high = found["acc_interval"]
    text = f"test/acc {found['acc']:.4f} ({low:.4f} to {high:.4f}, 95 %)  {how}"
    return [labelled(name, text)]


# by task: scores for metrics.json, and the lines that report them
SCORES: dict[TaskName, tuple[Callable[[Fitted], dict[str, Any]], Callable[..., list[str]]]] = {
    "single_label": (_score_classes, _accuracy_lines),
    "multi_label": (_score_several, class_lines),
    "regression": (_score_numbers, number_lines),
}


def _write_data_set(path: Path, rows: dict[str, Rows], class_names: Sequence[str]) -> list[str]:
    """Write features and labels by split, unless they are too many; returns lines to report."""
    numbers = sum(part.values.numel() for part in rows.values())
    if numbers > MAX_FEATURE_VALUES:
        why = f"not written: {numbers:.1e} numbers are more than {MAX_FEATURE_VALUES:.0e}"
        return [labelled("features", why)]
    arrays = {f"{name}_features": part.values.numpy() for name, part in rows.items()}
    arrays |= {f"{name}_labels": part.labels.numpy() for name, part in rows.items()}
    np.savez(path, allow_pickle=False, class_names=np.array(class_names), **arrays)
    return []


def _sheet_of_data_set(data: PlainImageData, near: Neighbours) -> Any:
    test, train = data.splits["test"], data.splits["train"]
    places = test.balanced_places(SHEET_QUERIES)
    index = near.row[places, :SHEET_NEIGHBOURS]  # (q, 7)
    labels, own = train.labels[index], test.labels[places]  # (q, 7) or (q, 7, k); (q,) or (q, k)
    kind, alike = KINDS[data.task], None
    if data.task != "regression":  # numbers are seldom equal
        # of several classes all must agree
        alike = (labels == own[:, None]).view(*index.shape, -1).all(dim=2).tolist()
    words = partial(kind.target_words, names=[shorten(name, 14) for name in data.class_names])
    mark = ":" if alike is None else ""  # between two numbers
    similarity = near.similarity[places, :SHEET_NEIGHBOURS].tolist()
    return neighbour_sheet(
        test.pictures(torch.tensor(places)),
        [f"{words(label)}{mark}" for label in own],
        train.pictures(index),
        [
            [f"{words(label)}{mark} {value:.2f}" for label, value in zip(*pair, strict=True)]
            for pair in zip(labels, similarity, strict=True)
        ],
        alike,
        legend=SHEET_LEGENDS[data.task],
        title="test images, and the training images nearest to them (cosine)",
    )
