"""Runs ``probe`` on a data set: the scores that its features reach.

ImageData -> features of train, val and the split to score -> probe/: metrics.json nearest.png
                                                              features.npz
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitlit.data.datamodule import ImageData
from vitlit.data.splits import Split
from vitlit.errors import InputError
from vitlit.evaluation import figures
from vitlit.evaluation.inference import Rows, collect, loader_of
from vitlit.evaluation.significance import wilson
from vitlit.features.probe_classifiers import (
    LinearClassifier,
    Neighbours,
    choose_linear,
    fit_linear,
    nearest,
    vote,
)
from vitlit.features.probe_numbers import (
    answers_of,
    choose_ridge,
    fit_ridge,
    neighbour_mean,
    number_line,
    number_scores,
    numbers_task,
    standardised,
)
from vitlit.messages import labelled, shorten
from vitlit.tasks.known import KINDS

SHEET_QUERIES, SHEET_NEIGHBOURS = 6, 7  # rows of the picture, and neighbours in each
MAX_FEATURE_VALUES = 5 * 10**7  # in features.npz: 200 MB; with more it is not written

Extract = Callable[[ImageData, Split], Rows]  # features (n, D) of a split


class Probed(NamedTuple):
    """Accuracies on the test images, as written to metrics.json, and lines that report them."""

    metrics: dict[str, Any]
    lines: list[str]


def extractor(compute: Callable[[Tensor], Tensor], device: torch.device) -> Extract:
    """A function that computes the features of a split with ``compute``, on ``device``."""

    def extract(data: ImageData, split: Split) -> Rows:
        return collect(data, loader_of(data, split), compute, device).rows()

    return extract


def probe_data_set(
    data: ImageData,
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
    is_numbers = data.task == "regression"
    how = f", chosen on {len(val.labels)} validation images" if c is None else ""
    # on validation: choosing by the test images would flatter the result
    if c is None and is_numbers:
        linear, c = choose_ridge(standardised(train, train), standardised(val, train))
    elif c is None:
        linear, c = choose_linear(train[:2], val[:2], data.num_classes)
    elif is_numbers:
        linear = fit_ridge(*standardised(train, train), c=c)
    else:
        linear = fit_linear(*train[:2], data.num_classes, c=c)
    how = f"C {c:g}{how}"
    score = _score_numbers if is_numbers else _score_classes
    logits = None if answer is None else answer(linear)(data, data.splits["test"]).values
    found = score(chosen, linear, logits, train, test)
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
    line = number_line if is_numbers else _line
    learnt = f"{len(train.labels)} images to learn from"
    lines = [
        labelled("data", f"{data.dataset}: {learnt}, {len(test.labels)} to score"),
        line("k-NN", metrics["knn"], f"{k} nearest of {len(train.labels)} by cosine"),
        line("linear", metrics["linear"], how),
        *kept,
    ]
    return Probed(metrics, lines)


def _describe(data: ImageData) -> dict[str, Any]:
    return {
        "dataset": data.dataset,
        "data_dir": str(data.data_dir),
        "labels": data.hparams["labels"],
        "split_seed": data.hparams["split_seed"],
    }


def _score_classes(
    near: Neighbours, linear: LinearClassifier, logits: Tensor | None, train: Rows, test: Rows
) -> dict[str, Any]:
    """The accuracies of neighbours and of the linear classifier, or of a model's logits."""
    said = linear.predict(test.values) if logits is None else logits.argmax(dim=1)
    return {
        "knn": _accuracy(vote(near, train.labels, len(linear.bias)) == test.labels),
        "linear": _accuracy(said == test.labels),
    }


def _score_numbers(
    near: Neighbours, linear: LinearClassifier, logits: Tensor | None, train: Rows, test: Rows
) -> dict[str, Any]:
    """The errors of the neighbours' mean and of the regression, or of a model's outputs."""
    said = answers_of(linear, test.values) if logits is None else logits
    said = numbers_task(train).answers(said)
    return {
        "knn": number_scores(neighbour_mean(near, train.labels), test.labels),
        "linear": number_scores(said, test.labels),
    }


def _accuracy(right: Tensor) -> dict[str, Any]:
    """The share of right answers, bool ``(n,)``, and its interval."""
    count = int(right.sum())
    return {"acc": count / len(right), "acc_interval": list(wilson(count, len(right)))}


def set_up_probe(data: ImageData, k: int) -> None:
    """Prepare the three splits, once; refuses more neighbours than there are training images."""
    if data.split != "test":
        raise InputError(
            f"probe scores the test split, not {data.split}; leave out split", argument="split"
        )
    KINDS[data.task].require("probe_labels")
    data.prepare_data()
    for stage in ("fit", "test"):
        data.setup(stage)
    count = len(data.splits["train"])
    if k > count:
        raise InputError(
            f"k {k} is more than the {count} training images; give {count} or less", argument="k"
        )


def _line(name: str, found: dict[str, Any], how: str) -> str:
    low, high = found["acc_interval"]
    return labelled(name, f"test/acc {found['acc']:.4f} ({low:.4f} to {high:.4f}, 95 %)  {how}")


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


def _sheet_of_data_set(data: ImageData, near: Neighbours) -> Any:
    test, train = data.splits["test"], data.splits["train"]
    places = test.balanced_places(SHEET_QUERIES)
    index = near.row[places, :SHEET_NEIGHBOURS]  # (q, 7)
    labels, own = train.labels[index], test.labels[places]
    alike: Any = (labels == own[:, None]).tolist()
    if data.task == "regression":  # numbers are seldom equal
        alike, names = None, None
        labels, own = labels[..., 0], own[:, 0]
    else:
        names = [shorten(name, 14) for name in data.class_names]
    return figures.neighbour_sheet(
        test.pictures(torch.tensor(places)),
        [_label_words(label, names) for label in own.tolist()],
        train.pictures(index),
        [
            [
                f"{_label_words(label, names)} {value:.2f}"
                for label, value in zip(*pair, strict=True)
            ]
            for pair in zip(
                labels.tolist(), near.similarity[places, :SHEET_NEIGHBOURS].tolist(), strict=True
            )
        ],
        alike,
        title="test images, and the training images nearest to them (cosine)",
    )


def _label_words(label: float, names: Sequence[str] | None) -> str:
    """A class by its name, or a number."""
    return f"{label:.4g}:" if names is None else names[int(label)]
