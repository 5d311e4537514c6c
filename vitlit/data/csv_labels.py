"""Labels from a CSV file, an alternative to class folders.

labels.csv (a column of files, and those of the task, such as class), data_dir -> FileImages
"""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vitlit.data.catalog import check_class_count
from vitlit.data.image_folder import UNLABELLED_NAMES, find_class_names, unicode_hint
from vitlit.errors import InputError, first_few, say
from vitlit.files import expanded, printable
from vitlit.images.find_images import file_inside
from vitlit.images.framing import PLAIN_FRAMING, Framing
from vitlit.images.image_store import FileImages
from vitlit.tasks.known import DEFAULT_TASK, KINDS, kind_of_table
from vitlit.tasks.multi_label import SEPARATORS, TARGET_COLUMN
from vitlit.tasks.task import Label, Row, TaskName

FILE_COLUMN = "file"
EXTRA = "\0"  # key of the cells, a list, that have no column
MANY_NUMBERS = 30  # as names of classes, from which on they are likelier to be quantities
say_once = cache(say)  # the file is read twice, for the class names and for the images


def read_table(file: Path) -> tuple[list[str], list[Row]]:
    """The columns of the file, and its lines but for empty ones, unchecked.

    Raises InputError if it cannot be read, or has no column of files.
    """
    # utf-8-sig: spreadsheets write a mark before the first column's name. surrogateescape: names in
    # other encodings are told by check_label_names.
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
            reader = csv.DictReader(lines, restkey=EXTRA)
            head = [*(reader.fieldnames or ())]
            cells = [(reader.line_num, row) for row in reader] if FILE_COLUMN in head else []
    except (OSError, csv.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(
            f"cannot read labels {file}: {reason}; give a CSV file", argument="labels"
        ) from error
    rows = [Row(f"{file}, line {i}", row[FILE_COLUMN] or "", row) for i, row in cells]
    # spreadsheets leave empty lines at the end
    return head, [row for row in rows if any(row.cells.values())]


def find_task(given: TaskName | None, file: Path | None, target: str | None = None) -> TaskName:
    """What the labels are: as given, else as the file of labels shows, else one class an image.

    target: the column of numbers to learn, which asks for regression.
    """
    if target is not None:
        if given not in (None, "regression"):
            raise InputError(
                f"target {target} is the column of numbers of regression, and task is {given}; "
                f"leave out one of them",
                argument=("target", "task"),
            )
        return "regression"
    if given is not None or file is None:
        return given or DEFAULT_TASK
    return kind_of_table(*read_table(file)).name


def task_of(data: Mapping[str, Any]) -> TaskName:
    """:func:`find_task` for settings of ImageData; null is what nobody gave."""
    file = None if data["labels"] is None else expanded(data["labels"])
    return find_task(data["task"], file, data["target"])


def read_labels(
    file: Path, data_dir: Path, task: TaskName = DEFAULT_TASK, target: str | None = None
) -> tuple[dict[str, Label], list[str]]:
    """The label of each path, in the order of the file, and the columns that hold the labels.

    Paths in the file are relative to data_dir. target: the column of numbers, if it is named.
    Raises InputError, with the number of the line, for what cannot be read or contradicts itself.
    """
    head, rows = read_table(file)
    kind = KINDS[task]
    columns = kind.label_columns(head, rows)
    if FILE_COLUMN in head and task == "regression":
        columns = [_column_of_numbers(file, head, target)]
    if FILE_COLUMN not in head or not columns:
        missing = [FILE_COLUMN] * (FILE_COLUMN not in head) + [kind.column] * (not columns)
        raise InputError(
            f"{file} has no column {' and no '.join(missing)}; its first line must name the "
            f"columns {FILE_COLUMN} and {kind.column}, separated by a comma, in UTF-8, and has "
            f"'{printable(','.join(head))[:80]}'{_separator_hint(head) or kind.hint(head, rows)}"
        )
    for row in rows:
        if any(row.cells.get(EXTRA) or ()):
            raise InputError(f"{row.place}: more cells than columns; quote cells with commas")
        there = [text for text in (row.name, *(row.cells[name] for name in columns)) if text]
        if len(head) > 1 and len(there) == 1 and (hint := _separator_hint(there)):
            raise InputError(f"{row.place}: {there[0]!r} is one column{hint}")
    paths = [str(file_inside(row.name, data_dir, row.place)) for row in rows]
    found: dict[str, Label] = {}
    repeats = 0
    for row, path, label in zip(rows, paths, kind.read_labels(columns, rows), strict=True):
        repeats += path in found
        if found.setdefault(path, label) != label:
            raise InputError(
                f"{row.place}: {printable(row.name)} has the {kind.noun} {kind.words(label)}, and "
                f"{kind.words(found[path])} in an earlier line; remove one of the two"
            )
    if not found:
        raise InputError(f"{file} names no images; give it a line for each")
    if task == DEFAULT_TASK:
        _tell_numbers(file, [*found.values()])
    if TARGET_COLUMN in head and task != "regression":
        say_once(
            f"{file}: {columns[0]} is read, not target; to read that, set data.target to target"
        )
    if repeats:
        lines = "line repeats" if repeats == 1 else "lines repeat"
        say_once(f"{file}: {repeats} {lines} an image with the same {kind.noun}; they are left out")
    return found, columns


def _column_of_numbers(file: Path, head: list[str], target: str | None) -> str:
    """The column that ``target`` names. Raises InputError if there is none of that name."""
    wanted = KINDS["regression"].column if target is None else target
    others = [printable(name) for name in head if name != FILE_COLUMN]
    if wanted in head and wanted != FILE_COLUMN:
        return wanted
    known = f"it has {first_few(others)}" if others else f"it has no column but {FILE_COLUMN}"
    way = "give one of them" if target is not None else "name the one to learn with target"
    raise InputError(
        f"{file} has no column {printable(wanted)} of numbers; {known}: {way}", argument="target"
    )


def _tell_numbers(file: Path, labels: list[str]) -> None:
    """Tell once that numbers are taken for names of classes, where they hardly are."""
    names = set(labels)
    try:
        values = {float(name) for name in names}
    except ValueError:
        return
    is_many = len(names) > MANY_NUMBERS or 2 * len(names) > len(labels) > 2
    if is_many or not all(value.is_integer() for value in values):
        say_once(
            f"the column class of {file} has {len(names)} different numbers, each of which is "
            f"taken for the name of a class; to learn the number itself, set data.target to class"
        )


def _separator_hint(columns: list[str]) -> str:
    """What to add to a message about one column, if another separator would make two of it."""
    for character, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(columns) == 1 and character in columns[0]:
            return f"; {name} separate its columns: save it with commas instead"
    return ""


def several_hint(unknown: list[str], task: TaskName) -> str:
    """What to add to a message about unknown classes that may be several classes each."""
    if task == DEFAULT_TASK and any(mark in name for name in unknown for mark in SEPARATORS):
        return "; several classes in a cell need a model of the task multi_label"
    return ""


def label_names(
    file: Path, data_dir: Path, task: TaskName = DEFAULT_TASK, target: str | None = None
) -> list[str]:
    """The names of the outputs that the file asks for, such as its classes, in their order.

    Raises InputError if two look the same.
    """
    found, columns = read_labels(file, data_dir, task, target)
    names = KINDS[task].names_in(found.values(), columns)
    if not names:
        raise InputError(f"{file} names no class; give an image one, in the column {columns[0]}")
    if hint := unicode_hint(names):
        raise InputError(f"{file} has two classes of one name{hint}")
    return names


def names_of_classes(
    dataset: str,
    data_dir: Path,
    labels: Path | None,
    given: list[str] | None,
    task: TaskName = DEFAULT_TASK,
    target: str | None = None,
    *,
    unlabelled: bool = False,
) -> list[str]:
    """The class names of a data set, checked: those given, else those that its labels have.

    Of regression it is the name of the column of numbers; unlabelled: a folder has one class then.
    Raises InputError if names are no text, equal or not as many as the set has, or are not read.
    """
    if unlabelled and dataset in ("folder", "shards"):
        if labels is not None or given not in (None, UNLABELLED_NAMES):
            raise InputError(
                f"{f'labels {labels}' if labels else f'class_names {first_few(given or ())}'} "
                f"would not be read, since pretraining needs none; leave it out",
                argument="labels" if labels else "class_names",
            )
        return UNLABELLED_NAMES
    if labels is not None:
        names = given or label_names(labels, data_dir, task, target)
    else:
        names = given or find_class_names(dataset, data_dir)
    check_label_names(names, labels or data_dir)
    if task == "regression":
        _check_one_output(names, labels, dataset)
    else:
        least, is_file = KINDS[task].least_outputs, labels is not None
        check_class_count(dataset, names, labels or data_dir, is_file=is_file, least=least)
    return names


def _check_one_output(names: list[str], labels: Path | None, dataset: str) -> None:
    """Raise InputError for class names of regression, or where nothing holds its numbers."""
    if dataset != "folder":
        raise InputError(
            f"task regression needs dataset folder and labels, a CSV file with a column of "
            f"numbers; {dataset} has classes",
            argument=("task", "dataset", "labels"),
        )
    if len(names) != 1:
        source = "give labels, a CSV file with a column of numbers, and target, its name"
        way = source if labels is None else "leave class_names out"
        raise InputError(
            f"regression has one output, and there are {len(names)} class names, "
            f"{first_few(names)}; {way}",
            argument=("labels", "target") if labels is None else "class_names",
        )


def check_label_names(names: list[str], place: Path) -> None:
    """Raise InputError for class names that are not text: no report or export could hold them."""
    for name in names:
        # surrogates: Python decodes bytes that are not UTF-8 to them (PEP 383)
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise InputError(
                f"the class {printable(name)} of {place} is not text in UTF-8; rename its folder, "
                f"or save the file of labels as UTF-8"
            )


def labelled_images(
    file: Path,
    data_dir: Path,
    class_names: list[str],
    *,
    in_chans: int,
    size: tuple[int, int],
    framing: Framing = PLAIN_FRAMING,
    task: TaskName = DEFAULT_TASK,
    target: str | None = None,
) -> FileImages:
    """The images that the file names, with the targets of the task for ``class_names``.

    Raises InputError for a class that is not among them.
    """
    found, columns = read_labels(file, data_dir, task, target)
    kind = KINDS[task]
    if task != "regression" and (
        unknown := sorted(set(kind.names_in(found.values(), columns)) - set(class_names))
    ):
        raise InputError(
            f"{file} names the class {first_few(unknown)}, which the model does not have; "
            f"it has {first_few(class_names)}{unicode_hint([*unknown, *class_names])}"
            f"{several_hint(unknown, task)}"
        )
    labels = kind.targets([*found.values()], class_names)
    return FileImages(list(found), labels, in_chans=in_chans, size=size, framing=framing)
