"""Data sets of the Hugging Face hub, read by its ``datasets`` library and unpacked to image files.

HubName -> tables of images and labels -> folder/part/class/image, with an index

The images stay as they were encoded, and are decoded as all image files are. Code that comes with a
data set is never run: the library has not had a way to do so since its version 4.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from vitlit.data.published.hub_cells import homes_of, image_bytes
from vitlit.data.published.hub_columns import Columns, Labels, find_columns, labels_of_column
from vitlit.data.published.hub_name import HubName
from vitlit.data.published.index import Index, Part
from vitlit.errors import InputError, first_few, say
from vitlit.images.find_images import PART_WORDS

OLDEST_LIBRARY = 4  # before, data sets could bring code along
DICT_FILE, STATE_FILE = "dataset_dict.json", "state.json"
# First bytes of files -> the ending of their names, by which predict finds them too.
ENDINGS = (
    (b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
    (b"II*\x00", ".tif"), (b"MM\x00*", ".tif"), (b"RIFF", ".webp"),
)  # fmt: skip


def unpack(name: HubName, data_dir: Path, *, download: bool = True) -> Path:
    """The folder of the images of a data set below data_dir, unpacked if they are not there yet.

    One process of each machine unpacks, the others wait for it. download: whether the hub may be
    asked; folders of this machine are unpacked in any case. Raises InputError if it cannot be read.
    """
    if name.is_local and not name.revision:
        name = name.at(_local_version(name))  # it may have changed since it was unpacked
    if found := name.unpacked(data_dir):
        return found
    if name.is_local and name.revision != _local_version(name):
        raise InputError(
            f"{name} has changed since the training, and what was unpacked then is gone "
            f"from {name.folder(data_dir)}; give another data set",
            argument="dataset",
        )
    if not download and not name.is_local:
        raise InputError(
            f"{name} is not unpacked below {data_dir}, and download is false; give download true, "
            f"or the data_dir that has it",
            argument=("download", "data_dir"),
        )
    try:
        name.base(data_dir).mkdir(parents=True, exist_ok=True)
        with FileLock(name.lock(data_dir)):
            return name.unpacked(data_dir) or _unpack(name, data_dir)
    except OSError as error:
        raise InputError(
            f"cannot unpack {name} to {name.base(data_dir)}: {error.strerror or error}; free some "
            f"space, or give another data_dir",
            argument="data_dir",
        ) from error


def _unpack(name: HubName, data_dir: Path) -> Path:
    say(f"reading {name}")
    tables, version = _read_tables(name)
    folder = name.at(name.revision or version).folder(data_dir)
    with _complete_or_absent(folder) as part:
        index = _write_images(tables, part, name)
        index.write(part)
    count = sum(len(one.files) for one in index.parts.values())
    say(f"unpacked {count:,} images of {len(index.class_names)} classes to {folder}")
    return folder


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``folder`` at the end; after an error nothing is left."""
    # Only the holder of the lock is here: what another left is of a process that was killed.
    for left in folder.parent.glob(f".{folder.name.partition('@')[0]}@*.part"):
        shutil.rmtree(left, ignore_errors=True)
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir()
    try:
        yield part
        if folder.exists():  # without an index, or it would have been used
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _library() -> ModuleType:
    """The ``datasets`` library. Raises InputError if it is missing or too old."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "data sets of the hub need the datasets library, which is not installed; run "
            "pip install 'vitlit[hub]'",
            argument="dataset",
        ) from error
    if int(datasets.__version__.split(".")[0]) < OLDEST_LIBRARY:
        raise InputError(
            f"datasets {datasets.__version__} could run code that comes with a data set; run "
            f"pip install -U 'datasets>={OLDEST_LIBRARY}'",
            argument="dataset",
        )
    return datasets


def _is_saved(folder: Path) -> bool:
    """Whether save_to_disk wrote the folder."""
    return (folder / DICT_FILE).is_file() or (folder / STATE_FILE).is_file()


def _local_version(name: HubName) -> str:
    """A name for the present content of a folder: a hash of its files' paths, sizes and times."""
    root = Path(name.source)
    if not root.is_dir():
        raise InputError(
            f"{name}: no folder {root}; give hub: the folder of a data set that was saved with "
            f"save_to_disk, or that holds Parquet files or image folders",
            argument="dataset",
        )
    lines = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            found = path.stat()
            lines.append(f"{path.relative_to(root)}\0{found.st_size}\0{found.st_mtime_ns}")
    text = "\n".join(lines).encode(errors="surrogateescape")
    return blake2b(text, digest_size=8).hexdigest()


def _read_tables(name: HubName) -> tuple[Mapping[str, Any], str]:
    """The tables by split, and the version: on the hub the commit."""
    library = _library()
    try:
        with _quiet(library):
            if name.is_local and _is_saved(Path(name.source)):
                saved = library.load_from_disk(name.source)
                return (saved if isinstance(saved, dict) else {"train": saved}), ""
            revision = None if name.is_local else name.revision
            builder = library.load_dataset_builder(name.source, name.subset, revision=revision)
            builder.download_and_prepare()
            return builder.as_dataset(), str(builder.hash)
    except Exception as error:  # of many types, by the library, by Arrow and by the network
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        way = "check the name, and that the hub can be reached or its cache has the data set"
        if name.is_local:
            way = "give a folder that save_to_disk wrote, or one of Parquet files or image folders"
        raise InputError(
            f"cannot read {name}: {reason.rstrip('.')}; {way}",
            argument="dataset",
        ) from error


@contextmanager
def _quiet(library: ModuleType) -> Iterator[None]:
    """Without what the library logs while it reads, and without bars where nobody sees them."""
    from huggingface_hub.utils import logging as hub_logging

    kept = library.logging.get_verbosity(), hub_logging.get_verbosity()
    library.logging.set_verbosity(logging.ERROR)
    hub_logging.set_verbosity(logging.ERROR)
    has_bars = library.are_progress_bars_disabled() is False
    if not os.isatty(2):
        library.disable_progress_bars()
    try:
        yield
    finally:
        library.logging.set_verbosity(kept[0])
        hub_logging.set_verbosity(kept[1])
        if has_bars:
            library.enable_progress_bars()


def _write_images(tables: Mapping[str, Any], folder: Path, name: HubName) -> Index:
    """Write the images of all parts; returns the index of what was written."""
    features = next(iter(tables.values())).features
    columns = find_columns(features, name, name.image_column, name.label_column)
    every = (value for table in tables.values() for value in table[columns.label])
    labels = labels_of_column(features[columns.label], every, name)
    kept = {
        split: table
        for split, table in tables.items()
        if any(labels.number(value) is not None for value in table[columns.label])
    }
    if unlabelled := [split for split in tables if split not in kept]:
        say(f"left out {first_few(unlabelled)} of {name}: its images have no labels")
    parts = {
        part: _write_part(kept[split], columns, labels, folder / part, name)
        for split, part in name_parts([*kept], name).items()
    }
    return Index(labels.names, parts)


def name_parts(splits: list[str], name: object) -> dict[str, str]:
    """The part that each split is: train, val or test; all if there is but one.

    Splits of other names are left out, with a message. Raises InputError if none is for training.
    """
    meant = {split: PART_WORDS[split.lower()] for split in splits if split.lower() in PART_WORDS}
    if len(splits) > 1 and sorted(meant.values()).count("train") != 1:
        raise InputError(
            f"{name} has the splits {first_few(splits)}, and a training needs one that is called "
            f"train; give another data set or subset",
            argument="dataset",
        )
    if len(splits) == 1 or len(meant) == 1:
        only = next(iter(meant if len(splits) > 1 else splits), None)
        if only is None:
            raise InputError(f"{name} has no labelled images; give another", argument="dataset")
        meant = {only: "all"}
    if odd := [split for split in splits if split not in meant]:
        say(f"left out {first_few(odd)} of {name}: only train, validation and test are read")
    first: dict[str, str] = {}  # part -> the first split that it is called by
    for split, part in meant.items():
        if first.setdefault(part, split) != split:
            raise InputError(
                f"{name} has two splits for {part}, {first[part]} and {split}; give another subset",
                argument="dataset",
            )
    return meant


def _write_part(table: Any, columns: Columns, labels: Labels, folder: Path, name: HubName) -> Part:
    """Write the images of a split as they are encoded; rows without image or label are left out.

    folder: of the part; the files of the returned Part begin with its name.
    """
    from datasets import Image

    # decode=False: the bytes as they are, which the library would decode by other rules
    table = table.select_columns([*columns]).cast_column(columns.image, Image(decode=False))
    classes, homes = _class_folders(labels.names), homes_of(name)
    files: list[str] = []
    numbers: list[int] = []
    for of_class in classes:
        (folder / of_class).mkdir(parents=True)
    width = len(str(len(table)))
    shown: Any = {"leave": False, "delay": 1, "disable": None, "dynamic_ncols": True}
    for row, entry in enumerate(tqdm(table, desc=f"unpacking {folder.name}", unit="img", **shown)):
        label = labels.number(entry[columns.label])
        content = image_bytes(entry[columns.image], homes, name)
        if label is None or content is None:
            continue
        file = f"{classes[label]}/{row:0{width}}{_ending(content)}"
        (folder / file).write_bytes(content)
        files.append(f"{folder.name}/{file}")
        numbers.append(label)
    if left_out := len(table) - len(files):
        say(f"left out {left_out:,} rows of {folder.name} without an image or a label")
    return Part(files, numbers)


def _ending(content: bytes) -> str:
    """The ending of a file's name, by its first bytes."""
    return next((ending for start, ending in ENDINGS if content.startswith(start)), ".img")


def _class_folders(names: list[str]) -> list[str]:
    """A folder's name for each class: its own, where every system can have such a folder."""
    found: list[str] = []
    taken: set[str] = set()
    for number, name in enumerate(names):
        safe = "".join(c if c.isalnum() or c in " -_.+&'()" else "_" for c in name)[:80].strip(" .")
        if not safe or safe.casefold() in taken:  # some systems do not tell A from a
            safe = f"{safe or 'class'}_{number}"
        taken.add(safe.casefold())
        found.append(safe)
    return found
