"""Runs ``probe`` on files: the most similar images.

files -> features -> nearest images of each query -> probe/: nearest.csv nearest.png features.npz
"""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitlit.data.datamodule import PlainImageData
from vitlit.data.shards.shard_images import refuse_shards
from vitlit.data.splits import Split
from vitlit.errors import InputError
from vitlit.features.neighbour_figure import neighbour_sheet
from vitlit.features.probe import SHEET_NEIGHBOURS, SHEET_QUERIES, Extract
from vitlit.features.probe_classifiers import nearest
from vitlit.files import printable
from vitlit.images.find_images import find_images
from vitlit.images.image_store import FileImages
from vitlit.messages import counted, labelled, shorten


def find_alike(
    data: PlainImageData, extract: Extract, folder: Path, *, query: list[str] | None
) -> list[str]:
    """Find the images of the data nearest to each query, except itself; returns lines to report.

    query: files or folders; by default some of the images themselves, evenly spread. Writes
    nearest.csv, nearest.png and features.npz. Raises InputError if fewer than two images can be
    read.
    """
    data.setup("predict")
    found = data.splits["predict"]
    refuse_shards(found.images)
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
    return [
        labelled("nearest", f"among {counted(len(files), 'image')}, of {len(asked)} {noun}{bad}")
    ]


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
    return neighbour_sheet(
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
