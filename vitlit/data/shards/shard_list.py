"""Which shards a set has, and which part of it each belongs to.

folder, pattern or URL -> Shard of each tar file, class names if its list has them
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from glob import glob
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vitlit.data.shards.places import is_url, place_of, place_text, read_small
from vitlit.errors import InputError, first_few
from vitlit.files import expanded, printable
from vitlit.images.find_images import PART_WORDS, is_image_name

LIST_FILE = "shards.json"  # in a folder that `vitlit shard` wrote: its last file, so it is complete
UNFINISHED_FILE = "unfinished"  # there while it writes
LIST_FORMAT = "vitlit shards 1"
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_SHARDS = 10**6  # that a pattern may name


class Shard(NamedTuple):
    """A tar file of images: its path or URL, and its part: train, val, test or all."""

    where: str
    part: str


class ShardList(NamedTuple):
    """The shards of a set, and its class names if they are written down."""

    place: Path
    shards: tuple[Shard, ...]
    class_names: tuple[str, ...] | None

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that the set has, in the order train, val, test; or all."""
        found = {shard.part for shard in self.shards}
        return tuple(part for part in ("train", "val", "test", "all") if part in found)


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern with {000..099} or {a,b} stands for, as in a shell."""
    pieces = BRACES.split(pattern)  # text, inside of braces, text, …
    choices = [[piece] if i % 2 == 0 else [*_choices(piece)] for i, piece in enumerate(pieces)]
    count = 1
    for some in choices:
        count *= len(some)
    if count > MAX_SHARDS:
        raise InputError(
            f"{printable(pattern)} stands for {count:,} shards, more than {MAX_SHARDS:,}",
            argument="data_dir",
        )
    return ["".join(some) for some in product(*choices)]


def _choices(inside: str) -> Iterator[str]:
    found = RANGE.fullmatch(inside)
    if found is None:
        yield from inside.split(",")
        return
    first, last = found.groups()
    if int(last) - int(first) > MAX_SHARDS:
        raise InputError(f"{{{inside}}} is more than {MAX_SHARDS:,} shards", argument="data_dir")
    for number in range(int(first), int(last) + 1):
        yield f"{number:0{len(first)}}" if first.startswith("0") else str(number)


def shards_among(places: Sequence[str]) -> ShardList | None:
    """The shards that predict is given in place of image files, all as one part; None for others.

    They are tar files, patterns or URLs, or folders of them.
    """
    text = [str(place) for place in places]
    if alone := [one for one in text if is_url(one) and is_image_name(one)]:
        raise InputError(
            f"{printable(alone[0])} is the address of one image; download it, and give its path",
            argument="images",
        )
    is_shards = [one.endswith(".tar") or _is_shard_folder(one) for one in text]
    if not any(is_shards):
        return None
    if not all(is_shards):
        raise InputError(
            f"{printable(text[is_shards.index(True)])} is made of shards and "
            f"{printable(text[is_shards.index(False)])} is not; give them in two calls",
            argument="images",
        )
    lists = [find_shards(place_of(one)) for one in text]
    shards = tuple(shard._replace(part="all") for found in lists for shard in found.shards)
    return ShardList(lists[0].place, shards, None)


def _is_shard_folder(place: str) -> bool:
    """Whether a folder holds shards: the list of a set, or tar files and no image beside them."""
    folder = expanded(place)
    if is_url(place) or (folder / LIST_FILE).is_file():
        return True
    if not folder.is_dir() or next(_tars(folder), None) is None:
        return False
    return not any(is_image_name(file.name) for file in folder.iterdir())


def find_shards(place: Path) -> ShardList:
    """The shards of a set. Raises InputError if there are none."""
    stamps = []
    for path in (place, place / LIST_FILE, *(place / word for word in PART_WORDS)):
        try:
            stamps.append(path.stat().st_mtime_ns)
        except OSError:
            stamps.append(0)
    return _find_shards(place, tuple(stamps))


@lru_cache(maxsize=8)
def _find_shards(place: Path, stamps: tuple[int, ...]) -> ShardList:
    """Listed once, as long as the folder stays as it is: ``stamps`` are its times."""
    if (place / UNFINISHED_FILE).exists():
        raise InputError(
            f"{place} is half written; finish it with the command that began it, or remove it",
            argument="data_dir",
        )
    text = place_text(place)
    is_pattern = any(mark in text for mark in "{*?")
    if not is_pattern and not text.endswith(".tar"):
        content = read_small(f"{text}/{LIST_FILE}") if is_url(place) or place.is_dir() else None
        if content is not None:
            return _listed(place, content)
    found = [text] if text.endswith(".tar") and not is_pattern else _matching(place, is_pattern)
    shards = [Shard(where, _part_of(where)) for where in found]
    silent = [shard.where for shard in shards if not shard.part]
    if len(silent) == len(shards):
        shards = [shard._replace(part="all") for shard in shards]
    elif silent:
        raise InputError(
            f"{len(silent)} of the {len(shards)} shards of {text} do not say to which part they "
            f"belong, such as {printable(silent[0])}; name each train, val or test, or none",
            argument="data_dir",
        )
    return ShardList(place, tuple(shards), None)


def _matching(place: Path, is_pattern: bool) -> list[str]:
    """The tar files that a pattern names, or that lie in a folder."""
    text = place_text(place)
    if is_url(place):
        if "*" in text or not is_pattern:
            raise InputError(
                f"{printable(text)} has no {LIST_FILE}, and a URL cannot be searched; name its "
                f"shards by a pattern such as https://host/set/train-{{000..099}}.tar",
                argument="data_dir",
            )
        return expand_braces(text)
    if is_pattern:
        names = (name for one in expand_braces(text) for name in _globbed(one))
        found = sorted({name for name in names if name.endswith(".tar")})
    elif not place.is_dir():
        raise InputError(
            f"no folder {printable(text)}; give data_dir a folder of shards, a pattern or a URL",
            argument="data_dir",
        )
    else:
        found = [*map(str, _tars(place))]
    if not found:
        raise InputError(
            f"no shards (.tar files) in {printable(text)}; give data_dir a folder or a pattern "
            f"that has some",
            argument="data_dir",
        )
    return found


def _globbed(name: str) -> list[str]:
    """The files that match; a name without a wildcard is one, even if it is missing."""
    return sorted(glob(name)) if any(mark in name for mark in "*?") else [name]  # noqa: PTH207


def _tars(folder: Path) -> Iterator[Path]:
    """The tar files in a folder, and in the folders of its parts."""
    if folder.is_dir():
        yield from sorted(folder.glob("*.tar"))
        for one in sorted(path for path in folder.iterdir() if path.name.lower() in PART_WORDS):
            yield from sorted(one.glob("*.tar"))


def _part_of(where: str) -> str:
    """The part that the name of a shard, or of its folder, says; else an empty string."""
    path = PurePosixPath(where.replace("\\", "/"))
    words = [*re.split(r"[^a-z]+", path.stem.lower()), path.parent.name.lower()]
    return next((PART_WORDS[word] for word in words if word in PART_WORDS), "")


def _listed(place: Path, content: bytes) -> ShardList:
    """The set that a list describes. Raises InputError if the file is none."""
    text = f"{place_text(place)}/{LIST_FILE}"
    try:
        about: Any = json.loads(content)
        if about["format"] != LIST_FORMAT:
            raise ValueError(f"its format is {str(about['format'])[:40]!r}")
        names = tuple(str(name) for name in about["class_names"])
        rows = [(str(row["file"]), str(row["part"])) for row in about["shards"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{printable(text)} is no list of shards ({error}); remove it to read the .tar files "
            f"without it",
            argument="data_dir",
        ) from error
    odd = [file for file, part in rows if "/" in file or "\\" in file or not file.endswith(".tar")]
    odd += [part for _, part in rows if part not in ("train", "val", "test", "all")]
    if odd or not rows:
        what = first_few(map(printable, odd)) if odd else "nothing"
        raise InputError(f"{printable(text)} lists {what}, which is no shard beside it; remove it")
    base = text.removesuffix(LIST_FILE)
    return ShardList(place, tuple(Shard(base + file, part) for file, part in rows), names)
