"""Which columns of a table hold the images and their classes, and what the classes are called.

features of the ``datasets`` library -> columns; labels of a column -> class names, numbers
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from vitlit.errors import InputError, first_few

USUAL_LABELS = (
    "label",
    "labels",
    "class",
)  # columns without names of classes, by how they are called
MAX_CLASSES = 100_000  # more different values are no classes
INTEGERS = ("int", "uint")  # begin the names of types
TEXT = ("string", "large_string", "string_view")


class Columns(NamedTuple):
    """The names of two columns."""

    image: str
    label: str


def find_columns(
    features: Mapping[str, Any], name: object, image: str | None, label: str | None
) -> Columns:
    """The column of images and that of labels.

    features: by column; name: of the data set; image, label: those asked for, None to find them.
    Raises InputError, which names the columns, if there is not exactly one candidate.
    """
    images = [key for key, kind in features.items() if _kind(kind) == "Image"]
    labels = [key for key, kind in features.items() if _kind(kind) == "ClassLabel"]
    if not labels:
        plain = [key for key, kind in features.items() if _is_plain(kind)]
        labels = [key for key in plain if key.lower() in USUAL_LABELS]
    return Columns(
        _choose("image", image, images, features, name),
        _choose("label", label, labels, features, name),
    )


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _is_plain(feature: Any) -> bool:
    """Whether a column holds whole numbers or text."""
    kind = str(getattr(feature, "dtype", ""))
    return _kind(feature) == "Value" and kind.startswith((*INTEGERS, *TEXT))


def _choose(
    what: str, asked: str | None, found: list[str], features: Mapping[str, Any], name: object
) -> str:
    argument = f"{what}_column"
    every = ", ".join(f"{key} ({_words(kind)})" for key, kind in features.items())
    if asked is not None:
        kind = features.get(asked)
        fits = _kind(kind) == "Image" if what == "image" else _is_label(kind)
        if not fits:
            has = "has no column" if kind is None else f"has no {what}s in its column"
            message = f"{name} {has} {asked}; its columns are {every}"
            raise InputError(f"{message}: give {argument} another", argument=argument)
        return asked
    if len(found) == 1:
        return found[0]
    count = (
        f"{len(found)} columns of {what}s, {' and '.join(found)}"
        if found
        else (f"no column of {what}s that can be told")
    )
    way = "of them" if found else "of its columns"
    more = "" if found else f", which are {every}"
    raise InputError(f"{name} has {count}; give {argument} one {way}{more}", argument=argument)


def _is_label(feature: Any) -> bool:
    return _kind(feature) == "ClassLabel" or _is_plain(feature)


def _words(feature: Any) -> str:
    """The type of a column as the library writes it, in short."""
    if _kind(feature) != "Value":
        return _kind(feature)
    return str(getattr(feature, "dtype", None) or "Value")


class Labels(NamedTuple):
    """The classes of a column. number: that of a value; None if it stands for no class."""

    names: list[str]
    number: Callable[[Any], int | None]


def labels_of_column(feature: Any, values: Iterable[Any], name: object) -> Labels:
    """The classes of a column of labels; their order is that of the numbers.

    feature: of the column; values: of all splits. A ClassLabel has names; whole numbers are their
    own names, and text is sorted.
    """
    if _kind(feature) == "ClassLabel":
        names = [str(one) for one in feature.names]
        return Labels(names, lambda value: _named_class(value, len(names), name))
    different = {value for value in values if value is not None and value != -1}
    if not 2 <= len(different) <= MAX_CLASSES:
        raise InputError(
            f"{name} has {len(different):,} different labels, {first_few(map(str, different))}; a "
            f"classifier needs 2 to {MAX_CLASSES:,}, so give label_column another column",
            argument="label_column",
        )
    order = sorted(different)
    numbers = {value: number for number, value in enumerate(order)}
    return Labels([str(value) for value in order], numbers.get)


def _named_class(value: int | None, count: int, name: object) -> int | None:
    """The number of a class in a ClassLabel of so many names; None for no class."""
    # -1: how the hub marks images whose class was not published
    if value is None or value < 0:
        return None
    if value >= count:
        raise InputError(
            f"{name} has the label {value}, but names only the classes 0 to {count - 1}; give "
            f"label_column another column, or a data set that names all its classes",
            argument="label_column",
        )
    return value
