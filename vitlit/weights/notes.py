"""What is said about weights: what was assumed, kept, resized or dropped.

statistics, class names -> lines for the log
"""

from collections.abc import Sequence
from pathlib import Path

from vitlit.data.image_folder import find_class_names
from vitlit.errors import first_few, inform


def format_statistics(mean: Sequence[float], std: Sequence[float]) -> str:
    """Mean and std in words."""
    first, second = (", ".join(f"{value:.4g}" for value in row) for row in (mean, std))
    return f"mean {first} and std {second}"


def untold_statistics(mean: Sequence[float], std: Sequence[float], whose: str) -> str:
    """The note for weights that do not tell how their pixels were normalised."""
    return f"{format_statistics(mean, std)} assumed, which are {whose}; the weights do not say"


def untold_names(names: list[str]) -> str:
    """The note for weights that do not name their classes."""
    is_imagenet = len(names) == 1000 and names == find_class_names("imagenet", Path())
    return (
        f"the weights do not name their {len(names)} classes; they are assumed to be "
        f"{'those of ImageNet: ' if is_imagenet else ''}{first_few(names)}, in this order"
    )


def tell_notes(notes: Sequence[str]) -> None:
    """Log what was assumed, kept, resized or dropped, one line each, from the first process."""
    for note in notes:
        inform(f"weights: {note}")
