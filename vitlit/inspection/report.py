"""Writes what an inspection found: a page, pictures and tables, in a folder.

Findings, a training batch -> inspection/: index.html inspection.json counts.csv duplicates.csv
                                           labels.csv unreadable.csv files.csv classes.png batch.png
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.images.preprocess import Preprocess
from vitlit.inspection.duplicates import Duplicate
from vitlit.inspection.findings import Finding, Findings
from vitlit.inspection.page import Example, PageContent, write_inspection_page
from vitlit.inspection.sheets import class_sheet, pair_sheet
from vitlit.inspection.training_batch import TrainingBatch, shown_inputs

MAX_SHEET_CLASSES, SHEET_COLUMNS = 20, 10  # rows of the sheet of classes, pictures in each
SHOWN_BATCH, BATCH_COLUMNS = 24, 8  # images of the training batch, and in a row of its sheet


class Subject(NamedTuple):
    """What was inspected. of: for inspection.json and the page; preprocess: of the data in use;
    batch: the first training batch, or in words why there is none."""

    title: str
    of: Mapping[str, Any]
    preprocess: Preprocess
    batch: TrainingBatch | str


def write_inspection(folder: Path, found: Findings, subject: Subject) -> list[Finding]:
    """Write all files into a folder that exists; returns the sentences, to act on first."""
    about = subject.preprocess
    means = [1 - value for value in about.mean] if about.invert else list(about.mean)
    sentences = found.sentences(about.source_size, means, about.std)
    _write_tables(folder, found)
    numbers = _numbers(found, subject, sentences)
    text = json.dumps(numbers, indent=1, ensure_ascii=False) + "\n"
    # bytes of a path that are not UTF-8 become JSON's own escapes
    path = folder / "inspection.json"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    classes = _class_pictures(found)
    examples = _examples(found, subject)
    title = f"{subject.title}: training images {found.targets.rows_are}"
    _draw(folder, classes, examples, subject.title, title)
    facts = {name: str(value) for name, value in subject.of.items() if value is not None}
    facts["images"] = f"{len(found.inventory):,}"
    content = PageContent(
        title=subject.title,
        facts=facts,
        sentences=sentences,
        statistics=f"data: {{{statistics_words(found, ': ')}}}",
        found=found,
        classes=classes,
        examples=examples,
        no_batch=subject.batch if isinstance(subject.batch, str) else "",
    )
    write_inspection_page(folder / "index.html", content)
    return sentences


def statistics_words(found: Findings, between: str) -> str:
    """Mean and standard deviation of the training images; between: a name and its numbers."""
    numbers = (
        ", ".join(f"{value:.4f}" for value in values)
        for values in found.inventory.statistics("train")
    )
    return "mean{0}[{1}], std{0}[{2}]".format(between, *numbers)


def _numbers(found: Findings, subject: Subject, sentences: Sequence[Finding]) -> dict[str, Any]:
    own = found.inventory
    numbers: dict[str, Any] = {
        "of": dict(subject.of),
        "images": len(own),
        "findings": [one._asdict() for one in sentences],
        **found.targets.numbers(),
        "unreadable": len(own.unread),
        "duplicates": len(found.duplicates),
        "duplicates_between_splits": len(found.between_splits),
        "doubtful_labels": len(found.labels.doubts),
        "labels_checked": found.labels.checked,
        "colours": dict(found.kinds()),
    }
    numbers["mean"], numbers["std"] = own.statistics("train")
    return numbers


def _write_tables(folder: Path, found: Findings) -> None:
    own, column = found.inventory, found.targets.column
    names, table = found.targets.counts()
    counts = [(name, *row) for name, row in zip(names, table.tolist(), strict=True)]
    _write_csv(folder / "counts.csv", (column, *own.split_names), counts)
    pair_columns = [f"{name}_{one}" for one in "ab" for name in ("file", "split", column)]
    pairs = [_pair_row(found, pair) for pair in found.duplicates]
    _write_csv(folder / "duplicates.csv", ("kind", "bits", *pair_columns), pairs)
    labels = [
        (*_image_row(found, one.image), found.targets.doubt_words(one), len(one.neighbours))
        for one in found.labels.doubts
    ]
    columns = ("file", "split", column, f"neighbours_{column}", "neighbours")
    _write_csv(folder / "labels.csv", columns, labels)
    words = own.kind.target_words
    unread = [
        (one.file.path, one.split, words(one.label, own.class_names), one.file.reason)
        for one in own.unread
    ]
    _write_csv(folder / "unreadable.csv", ("file", "split", column, "reason"), unread)
    files = [(path, *facts) for path, facts in found.facts.items()]
    _write_csv(folder / "files.csv", ("file", "format", "height", "width", "colours"), files)


def _image_row(found: Findings, image: int) -> tuple[str, str, str]:
    own = found.inventory
    file = own.file_of(image) or own.name_of(image)
    return file, own.split_of(image), own.label_of(image)


def _pair_row(found: Findings, pair: Duplicate) -> tuple[Any, ...]:
    both = (*_image_row(found, pair.first), *_image_row(found, pair.second))
    return pair.kind, pair.bits, *both


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    # surrogateescape: names that are not UTF-8 are written as they are on disk
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _class_pictures(found: Findings) -> dict[str, Tensor]:
    """Some training images of each class, evenly spread: ``(k, C, h, w)`` in [0, 1]."""
    pictures: dict[str, Tensor] = {}
    split = found.inventory.splits["train"]
    for name, places in found.targets.groups().items():
        if len(places) and len(pictures) < MAX_SHEET_CLASSES:
            step = max(1, len(places) // SHEET_COLUMNS)
            pictures[name] = split.pictures(places[::step][:SHEET_COLUMNS])
    return pictures


def _examples(found: Findings, subject: Subject) -> list[Example]:
    batch = subject.batch
    if isinstance(batch, str):
        return []
    shown = shown_inputs(batch, subject.preprocess)[:SHOWN_BATCH]
    own = found.inventory
    targets = batch.targets[:SHOWN_BATCH]
    words = [own.kind.target_words(target, own.class_names) for target in targets]
    originals = batch.originals[:SHOWN_BATCH].float() / 255
    return [Example(*row) for row in zip(originals, shown, words, strict=True)]


def _draw(
    folder: Path,
    classes: Mapping[str, Tensor],
    examples: Sequence[Example],
    title: str,
    classes_title: str,
) -> None:
    if classes:
        rows, names = list(classes.values()), list(classes)
        sheet = class_sheet(rows, names, title=classes_title)
        sheet.savefig(folder / "classes.png")
    if examples:
        sheet = pair_sheet(
            torch.stack([one.original for one in examples]),
            torch.stack([one.augmented for one in examples]),
            [one.target for one in examples],
            across=BATCH_COLUMNS,
            title=f"{title}: first training batch; above the images, below what the model gets",
        )
        sheet.savefig(folder / "batch.png")
