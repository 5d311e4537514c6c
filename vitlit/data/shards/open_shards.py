"""Opening the indexes of a set: those beside its shards, else those that were made and kept.

Shards -> ShardIndex of each; class names, labels (n,)

Shards that other programs wrote have no index. It is made when they are first used, by reading them
once, and kept in ``$VITLIT_CACHE/shards``, by default ``~/.cache/vitlit/shards``.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from vitlit.data.shards.places import Stamp, is_url, place_text, read_small, stamp_of
from vitlit.data.shards.shard_index import (
    INDEX_ENDING,
    ShardIndex,
    build_index,
    read_shard_index,
    write_index,
)
from vitlit.data.shards.shard_list import ShardList
from vitlit.errors import InputError, first_few, say
from vitlit.files import acquire_aloud, printable
from vitlit.images.decode_cache import cache_folder
from vitlit.images.image_bytes import file_hash

WAITING_THREADS = 16  # that ask for small files: each answer of a network is a wait
MAX_CLASSES = 100_000  # numbers beyond are values, and no classes
_texts: dict[tuple[str, Stamp], list[str]] = {}  # of labels: read for the names and for the images


def open_indexes(found: ShardList, parts: Iterable[str]) -> list[tuple[str, ShardIndex]]:
    """The shards of some parts, each with its index, which is made if there is none."""
    wanted = set(parts)
    places = [shard.where for shard in found.shards if shard.part in wanted]
    with ThreadPoolExecutor(WAITING_THREADS) as pool:
        stamps = list(pool.map(stamp_of, places))
        indexes = list(pool.map(_existing_index, places, stamps))
    if None in indexes:
        indexes = _with_missing(found, places, stamps, indexes)
    made: list[tuple[str, ShardIndex]] = []
    for where, stamp, index in zip(places, stamps, indexes, strict=True):
        assert index is not None
        _texts[where, stamp] = index.texts
        made.append((where, index))
    return made


def _with_missing(
    found: ShardList, places: list[str], stamps: list[Stamp], indexes: list[ShardIndex | None]
) -> list[ShardIndex | None]:
    """Also the indexes that are missing; one process makes them, while others wait for it."""
    folder = _index_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{_digest(str(found.place))}.lock")
        acquire_aloud(lock, "reading these shards")
    except OSError as error:
        reason = error.strerror or error
        say(f"cannot keep the indexes of shards in {folder}: {reason}; they are made each time")
        return _made(places, stamps, indexes)
    try:
        # again: another process may have made them
        for row, (where, stamp) in enumerate(zip(places, stamps, strict=True)):
            if indexes[row] is None:
                indexes[row] = _kept_index(where, stamp)
        return _made(places, stamps, indexes)
    finally:
        lock.release()


def _made(
    places: list[str], stamps: list[Stamp], indexes: list[ShardIndex | None]
) -> list[ShardIndex | None]:
    rows = [i for i, index in enumerate(indexes) if index is None]
    options: Any = {"leave": False, "delay": 1, "disable": None, "dynamic_ncols": True}
    total = sum(stamps[i].size for i in rows)
    with tqdm(total=total, desc="reading shards", unit="B", unit_scale=True, **options) as bar:
        for i in rows:
            indexes[i] = made = build_index(places[i], stamps[i].size)
            _keep_index(made, places[i], stamps[i])
            bar.update(stamps[i].size)
    return indexes


def _existing_index(where: str, stamp: Stamp) -> ShardIndex | None:
    """The index beside a shard, or else the one that was kept; None if there is neither."""
    name = where + INDEX_ENDING
    content = read_small(name)
    if content is None:
        return _kept_index(where, stamp)
    index = read_shard_index(content, name)
    is_changed = index.bytes != stamp.size
    if not is_changed and index.mark and not is_url(where):
        is_changed = index.mark != file_hash(where)
    if is_changed:
        raise InputError(
            f"{printable(name)} is older than its shard, which has changed since; remove it to "
            f"have it made anew, or write the shards again",
            argument="data_dir",
        )
    return index


def _index_folder() -> Path:
    return cache_folder().with_name("shards")


def _digest(text: str) -> str:
    return blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()


def _kept_path(where: str, stamp: Stamp) -> Path:
    return _index_folder() / f"{_digest(where)}-{_digest(str(tuple(stamp)))}{INDEX_ENDING}"


def _kept_index(where: str, stamp: Stamp) -> ShardIndex | None:
    path = _kept_path(where, stamp)
    try:
        return read_shard_index(path.read_bytes(), str(path))
    except (OSError, InputError):  # a broken one is made anew
        return None


def _keep_index(index: ShardIndex, where: str, stamp: Stamp) -> None:
    path = _kept_path(where, stamp)
    with suppress(OSError):  # it is made again the next time
        write_index(index, path)
        for old in path.parent.glob(f"{_digest(where)}-*{INDEX_ENDING}"):
            if old != path:
                old.unlink()


def find_shard_classes(found: ShardList) -> list[str]:
    """The class names of a set: those in its list, else those of its labels.

    Labels that are numbers have the names 0, 1, …; others are sorted.
    """
    if found.class_names is not None:
        return [*found.class_names]
    texts = _label_texts(found)
    if not _are_numbers(texts):
        return sorted(texts)
    largest = max(map(int, texts), default=0)
    if largest >= MAX_CLASSES:
        raise InputError(
            f"the labels of {place_text(found.place)} go up to {largest}, which is no number of a "
            f"class; a .cls file holds 0 to {MAX_CLASSES - 1:,}, or a name"
        )
    return [str(number) for number in range(largest + 1)]


def _label_texts(found: ShardList) -> set[str]:
    """The texts of all labels; empty ones are left out."""
    keys = [(shard.where, stamp_of(shard.where)) for shard in found.shards]
    if any(key not in _texts for key in keys):
        open_indexes(found, found.parts)
    return {text for key in keys for text in _texts[key]} - {""}


def _are_numbers(texts: Iterable[str]) -> bool:
    # isascii: other digits are decimal too; the length: int() takes long for long ones
    return all(text.isascii() and text.isdecimal() and len(text) < 10 for text in texts)


def check_shard_classes(found: ShardList, expected: Sequence[str]) -> None:
    """Raise InputError if a set has other classes than the model: labels would be wrong."""
    own = find_shard_classes(found)
    if own == [*expected]:
        return
    place = place_text(found.place)
    if found.class_names is None and _are_numbers(_label_texts(found)):
        if len(own) <= len(expected):  # numbers say nothing of names
            return
        raise InputError(
            f"the labels of {place} go up to {len(own) - 1}, and the model has {len(expected)} "
            f"classes; give the data of the model",
            argument="class_names",
        )
    more = {
        "only the shards have": sorted(set(own) - set(expected)),
        "only the model has": sorted(set(expected) - set(own)),
    }
    lists = [f"{who} {first_few(names)}" for who, names in more.items() if names]
    raise InputError(
        f"the classes in the shards of {place} are not those of the model: "
        f"{'; '.join(lists) or 'they are in another order'}; give the data of the model, or, with "
        f"published weights, the names of the shards as class_names",
        argument="class_names",
    )


def has_numbers(found: ShardList) -> bool:
    """Whether the labels of a set are numbers: all of them, whatever those of one shard are."""
    return found.class_names is not None or _are_numbers(_label_texts(found))


def numbers_of_labels(
    index: ShardIndex, where: str, class_names: Sequence[str], *, numbers: bool
) -> list[int]:
    """The class of each label text of a shard. Raises InputError for an unknown one.

    numbers: whether the labels of the set are numbers, and not names.
    """
    texts = [text or "?" for text in index.texts]
    if "" in index.texts and bool((index.label == index.texts.index("")).any()):
        raise InputError(
            f"{printable(where)} has images without a class; each needs a file of its key that "
            f"ends in .cls or .json, or a folder"
        )
    if numbers and _are_numbers(texts):
        found = [*map(int, texts)]
    else:
        places = {name: number for number, name in enumerate(class_names)}
        found = [places.get(text, -1) for text in texts]
    for text, number in zip(texts, found, strict=True):
        if not 0 <= number < len(class_names):
            raise InputError(
                f"{printable(where)} has the label {printable(text)[:60]!r}, and the "
                f"{len(class_names)} classes are {first_few(class_names)}; correct class_names, or "
                f"the shard",
                argument="class_names",
            )
    return found
