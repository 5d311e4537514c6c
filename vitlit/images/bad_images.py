"""Image files that cannot be read: listed with the reason, and refused or left out.

Images, members of a split -> members that can be read
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from vitlit.errors import InputError, say
from vitlit.files import printable
from vitlit.images.image_store import BadFile, Images, is_among
from vitlit.messages import counted, fitted
from vitlit.tasks.known import kind_of_targets

OnBadImage = Literal["refuse", "skip"]
MAX_LISTED = 10  # files that a message lists before it only counts


def list_bad_images(headline: str, bad: Sequence[BadFile]) -> str:
    """The headline, a line for each of the first files, and how many more there are."""
    lines = [f"  {printable(file.path)}: {file.reason}" for file in bad[:MAX_LISTED]]
    more = [f"  … and {len(bad) - MAX_LISTED} more"] if len(bad) > MAX_LISTED else []
    return "\n".join([headline, *lines, *more])


def say_unread(paths: Sequence[str]) -> None:
    """Tell how many of the image files have a format that is not read, and name the first."""
    if not paths:
        return
    kinds = Counter(Path(path).suffix.lower() for path in paths)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    say(
        f"left out images in formats that vitlit does not read ({counts}), such as "
        f"{printable(paths[0])}; convert them to PNG or JPEG"
    )


def print_bad_images(bad: Sequence[BadFile], good: int) -> None:
    """Print which files could not be read, and why, beside ``good`` others that could."""
    if bad:
        count = f"{len(bad)} of {counted(good + len(bad), 'image')} cannot be read:"
        print(fitted(list_bad_images(count, bad), sys.stdout))


def refuse_bad_images(bad: Sequence[BadFile], total: int, way_out: str, *, argument: str) -> None:
    """List bad files and raise an InputError that names the first; do nothing if there are none.

    total: images, good and bad; way_out: what the message tells the user to do; argument: the
    argument that it concerns.
    """
    if not bad:
        return
    count = f"{len(bad)} of {counted(total, 'image')} cannot be read"
    if len(bad) > 1:  # the message below names the first
        # A list of its own: the command line cuts an error to a few lines.
        say(list_bad_images(f"{count}:", bad))
    first = f"{printable(bad[0].path)} ({bad[0].reason})"
    raise InputError(f"{count}, the first is {first}; {way_out}", argument=argument)


def refuse_parts_with_bad_images(parts: Sequence[Images]) -> None:
    """Raise InputError if any part of a data set has files that cannot be read."""
    bad = [file for images in parts for file in images.bad]
    total = sum(map(len, parts))
    way_out = "fix or remove them, or leave them out with on_bad_image skip"
    refuse_bad_images(bad, total, way_out, argument="on_bad_image")


def leave_out_bad_images(
    splits: Mapping[str, tuple[Images, Tensor]], class_names: Sequence[str]
) -> dict[str, tuple[Images, Tensor]]:
    """The splits (images, members) without the files that cannot be read; tells how many and which.

    Raises InputError if a class loses all its training images, or a split all its images.
    """
    # Splits are decided before bad files are left out, so fixing a file later moves no other image
    # from one split to another.
    kept: dict[str, tuple[Images, Tensor]] = {}
    bad: list[BadFile] = []
    counts: list[str] = []
    for name, (images, members) in splits.items():
        is_bad = is_among(images.bad, members)
        kept[name] = images, members[~is_bad]
        gone = set(members[is_bad].tolist())
        bad += [file for file in images.bad if file.place in gone]
        counts.append(f"{name} {len(gone)} of {len(members)}")
        left = images.labels[members[~is_bad]]
        _check_classes_left(name, images.labels[members], left, class_names)
    if bad:
        say(list_bad_images(f"left out images that cannot be read ({', '.join(counts)}):", bad))
    return kept


def _check_classes_left(
    name: str, before: Tensor, after: Tensor, class_names: Sequence[str]
) -> None:
    """Refuse to train without any image of a class, and to score an empty split."""
    kind, outputs = kind_of_targets(before), len(class_names)
    had, has = (kind.images_of(labels, outputs) > 0 for labels in (before, after))
    lost = (had & ~has).nonzero()[:, 0].tolist()
    if lost and (name == "train" or not len(after)):
        raise InputError(
            f"no image of {kind.noun} {class_names[lost[0]]} can be read in the {name} split; fix "
            f"its files"
        )
