"""Runs ``probe``: accuracies that features reach on a data set, and the most similar images.

ImageData -> features of train, val and the split to score -> probe/: metrics.json nearest.png
                                                              features.npz
files     -> features -> nearest images of each query          probe/: nearest.csv nearest.png
                                                              features.npz
"""

import csv
import json
from collections import Counter
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
from vitlit.files import printable
from vitlit.images.find_images import find_images
from vitlit.images.image_store import FileImages
from vitlit.messages import shorten
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
    if c is None:  # on validation: choosing by the test images would flatter the result
        linear, c = choose_linear(train[:2], val[:2], data.num_classes)
        how = f"C {c:g}, chosen on {len(val.labels)} validation images"
    else:
        linear, how = fit_linear(*train[:2], data.num_classes, c=c), f"C {c:g}"
    said = linear.predict(test.values)
    if answer is not None:
        said = answer(linear)(data, data.splits["test"]).values.argmax(dim=1)
    found = {
        "knn": vote(chosen, train.labels, data.num_classes) == test.labels,
        "linear": said == test.labels,
    }
    metrics: dict[str, Any] = {
        "of": about | _describe(data),
        "train_images": len(train.labels),
        "test_images": len(test.labels),
        "features": train.values.shape[1],
        "k": k,
        "c": c,
        **{name: _accuracy(right) for name, right in found.items()},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    kept = _write_data_set(folder / "features.npz", rows, data.class_names)
    _sheet_of_data_set(data, near).savefig(folder / "nearest.png")
    lines = [
        f"data        {data.dataset}: {len(train.labels)} images to learn from, "
        f"{len(test.labels)} to score",
        _line("k-NN", metrics["knn"], f"{k} nearest of {len(train.labels)} by cosine"),
        _line("linear", metrics["linear"], how),
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
    return f"{name:12}test/acc {found['acc']:.4f} ({low:.4f} to {high:.4f}, 95 %)  {how}"


def _write_data_set(path: Path, rows: dict[str, Rows], class_names: Sequence[str]) -> list[str]:
    """Write features and labels by split, unless they are too many; returns lines to report."""
    numbers = sum(part.values.numel() for part in rows.values())
    if numbers > MAX_FEATURE_VALUES:
        return [
            f"features    not written: {numbers:.1e} numbers are more than {MAX_FEATURE_VALUES:.0e}"
        ]
    arrays = {f"{name}_features": part.values.numpy() for name, part in rows.items()}
    arrays |= {f"{name}_labels": part.labels.numpy() for name, part in rows.items()}
    np.savez(path, allow_pickle=False, class_names=np.array(class_names), **arrays)
    return []


def _sheet_of_data_set(data: ImageData, near: Neighbours) -> Any:
    test, train = data.splits["test"], data.splits["train"]
    places = test.balanced_places(SHEET_QUERIES)
    index = near.row[places, :SHEET_NEIGHBOURS]  # (q, 7)
    names = [shorten(name, 14) for name in data.class_names]
    labels = train.labels[index]
    return figures.neighbour_sheet(
        test.pictures(torch.tensor(places)),
        [names[i] for i in test.labels[places].tolist()],
        train.pictures(index),
        [
            [f"{names[label]} {value:.2f}" for label, value in zip(*pair, strict=True)]
            for pair in zip(
                labels.tolist(), near.similarity[places, :SHEET_NEIGHBOURS].tolist(), strict=True
            )
        ],
        (labels == test.labels[places][:, None]).tolist(),
        title="test images, and the training images nearest to them (cosine)",
    )


def find_alike(
    data: ImageData, extract: Extract, folder: Path, *, query: list[str] | None
) -> list[str]:
    """Find the images of the data nearest to each query, except itself; returns lines to report.

    query: files or folders; by default some of the images themselves, evenly spread. Writes
    nearest.csv, nearest.png and features.npz. Raises InputError if fewer than two images can be
    read.
    """
    data.setup("predict")
    found = data.splits["predict"]
    own, _, good = extract(data, found)  # good: the places of images that could be read
    gallery, files = Split(found.images, good), [data.files[i] for i in good.tolist()]
    if (distinct := len(set(map(_real_path, files)))) < 2:  # a link to an image is that image
        raise InputError(
            f"neighbours need 2 images that can be read, not {distinct}; give more images",
            argument="images",
        )
    asked = find_images(query, argument="query") if query else _evenly_spread(files)
    # decoded as the data's own are, or features would differ
    assert isinstance(found.images, FileImages)
    queries = Split(found.images.others(asked), torch.arange(len(asked)))
    theirs = extract(data, queries).values
    hits = _others(asked, files, theirs, own)
    _write_alike(folder / "nearest.csv", asked, files, hits)
    np.savez(folder / "features.npz", allow_pickle=False, features=own.numpy(), files=files)
    _sheet_of_files(queries, asked, gallery, files, hits).savefig(folder / "nearest.png")
    left_out = len(found) - len(good)
    bad = f"; {left_out} cannot be read" if left_out else ""
    noun = "query" if len(asked) == 1 else "queries"
    return [f"nearest     among {len(files)} images, of {len(asked)} {noun}{bad}"]


def _evenly_spread(files: list[str]) -> list[str]:
    places = torch.linspace(0, len(files) - 1, min(SHEET_QUERIES, len(files))).round().long()
    return [files[i] for i in places.tolist()]


def _real_path(file: str) -> Path:
    return Path(file).resolve()


def _others(
    queries: list[str], files: list[str], theirs: Tensor, own: Tensor
) -> list[list[tuple[int, float]]]:
    """The nearest files of each query, nearest first, without the query: (place, similarity).

    theirs, own: features of the queries and of the files. A small folder has fewer neighbours for
    a query that is among its files than for one that is not.
    """
    # By file, not by similarity 1: a copy under another name is a finding. A link to the query is
    # the query, and there may be several.
    paths = list(map(_real_path, files))
    most = max(Counter(paths).values())
    near = nearest(theirs, own, SHEET_NEIGHBOURS + most)
    found = []
    for query, row, values in zip(queries, near.row.tolist(), near.similarity, strict=True):
        path = _real_path(query)
        pairs = zip(row, values.tolist(), strict=True)
        found.append([(i, value) for i, value in pairs if paths[i] != path][:SHEET_NEIGHBOURS])
    return found


def _write_alike(
    path: Path, queries: list[str], files: list[str], hits: list[list[tuple[int, float]]]
) -> None:
    # surrogateescape: names that are not UTF-8 are written as they are on disk
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "rank", "file", "similarity"])
        for query, row in zip(queries, hits, strict=True):
            for rank, (i, value) in enumerate(row, start=1):
                writer.writerow([query, rank, files[i], f"{value:.4f}"])


def _sheet_of_files(
    queries: Split,
    asked: list[str],
    gallery: Split,
    files: list[str],
    hits: list[list[tuple[int, float]]],
) -> Any:
    shown = hits[:SHEET_QUERIES]
    longest = max(map(len, shown))
    # rows are filled up with the first file, which the sheet does not show
    index = [[i for i, _ in row] + [0] * (longest - len(row)) for row in shown]
    return figures.neighbour_sheet(
        queries.pictures(torch.arange(len(shown))),
        [shorten(printable(Path(file).name), 18) for file in asked[:SHEET_QUERIES]],
        gallery.pictures(torch.tensor(index)),
        [
            [f"{shorten(printable(Path(files[i]).name), 13)} {value:.2f}" for i, value in row]
            for row in shown
        ],
        None,
        title="images, and those nearest to them (cosine)",
    )
