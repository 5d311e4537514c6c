"""Writing shards: the images of a folder, in an order without pattern, into tar files.

FileImages of each part -> PART-000000.tar, its index, …, and shards.json once all are there

The layout is that of WebDataset, which other programs read too: ``cat/0001.jpg`` is followed by
``cat/0001.cls``, the number of its class. Each shard is whole or not there, and tells what it was
written from: so the same command goes on where an earlier one was stopped.
"""

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from vitlit.data.shards.shard_index import (
    INDEX_ENDING,
    IndexBuilder,
    ShardIndex,
    read_shard_index,
    write_index,
)
from vitlit.data.shards.shard_list import LIST_FILE, LIST_FORMAT, UNFINISHED_FILE
from vitlit.data.shards.tar_scan import BLOCK, Sample, encode_name, split_key
from vitlit.data.shards.tar_writer import TarWriter, padded
from vitlit.errors import InputError, say
from vitlit.files import naming_full_disk, replacing
from vitlit.images.bad_images import OnBadImage, list_bad_images, refuse_bad_images
from vitlit.images.image_bytes import ImageBytes, file_hash, name_hash
from vitlit.images.image_io import MAX_FILE_BYTES, ImageInputError, check_image_file
from vitlit.images.image_store import BadFile, FileImages

UNFINISHED_LOCK = ".unfinished.lock"  # of the process that writes
SHARD_NAME = re.compile(r"(train|val|test|all)-\d{6}\.tar(\.index)?")


@dataclass(frozen=True)
class Source:
    """One image that is to be written: its path, the same below the folder, its class, its size.

    member: its name in the shard.
    """

    path: str
    name: str
    member: str
    label: int
    size: int
    time: int

    @property
    def room(self) -> int:
        """Bytes that it takes in a shard, with its label."""
        return 3 * BLOCK + padded(self.size)


@dataclass
class Written:
    """What was done: images and shards of each part, shards that were there, bad files."""

    images: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    kept: int = 0
    bytes: int = 0
    bad: list[BadFile] = field(default_factory=list)


def write_shards(
    parts: Mapping[str, tuple[FileImages, Path]],
    class_names: Sequence[str],
    folder: Path,
    *,
    max_images: int,
    max_bytes: int,
    on_bad_image: OnBadImage,
) -> Written:
    """Write the images of each part, which are below a folder, as shards into ``folder``.

    max_images, max_bytes: of a shard. Raises InputError if ``folder`` holds anything but what an
    earlier, unfinished call has left, and if images cannot be read, unless they are to be skipped.
    """
    done = Written()
    plans = {part: _planned(*of, max_images, max_bytes) for part, of in parts.items()}
    total = sum(len(images) for images, _ in parts.values())
    rows: list[dict[str, Any]] = []
    with _unfinished(folder), naming_full_disk(folder / LIST_FILE):
        options: Any = {"leave": False, "delay": 1, "disable": None, "dynamic_ncols": True}
        with tqdm(total=total, desc="writing shards", unit="img", **options) as bar:
            for part, shards in plans.items():
                for number, sources in enumerate(shards):
                    path = folder / f"{part}-{number:06d}.tar"
                    index = _write_shard(sources, path, done)
                    rows.append(_row(index, path, part))
                    done.images[part] = done.images.get(part, 0) + len(index)
                    bar.update(len(sources))
        if on_bad_image == "refuse":
            way = "fix or remove them, or leave them out with bad_images skip"
            refuse_bad_images(done.bad, total, way, argument="bad_images")
        elif done.bad:
            say(list_bad_images("left out images that cannot be read:", done.bad))
        _remove_others(folder, {row["file"] for row in rows})
        about = {"format": LIST_FORMAT, "class_names": [*class_names], "shards": rows}
        with replacing(folder / LIST_FILE, sync=True) as part_file:
            part_file.write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
    return done


@contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """The folder, marked as unfinished until the block succeeds; of one process at a time."""
    marker = folder / UNFINISHED_FILE
    _check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # not the mark itself: some releases of filelock delete the file when they release it
        lock = FileLock(folder / UNFINISHED_LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another process writes shards to {folder}; wait for it, or give another folder",
            argument="to",
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}; give another folder", argument="to"
        ) from error
    try:
        _check_free(folder)  # the process that held the lock may have finished meanwhile
        marker.write_text(
            "shards are written here, or their writing was stopped\n", encoding="utf-8"
        )
        yield
        marker.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # on Windows an open file stays, until filelock deletes it
            (folder / UNFINISHED_LOCK).unlink(missing_ok=True)
        lock.release()


def _check_free(folder: Path) -> None:
    """Raise InputError if the folder holds anything but what an unfinished call has left."""
    if not folder.exists() or (folder / UNFINISHED_FILE).exists():
        return
    if not folder.is_dir() or any(path.name != UNFINISHED_LOCK for path in folder.iterdir()):
        what = "holds finished shards" if (folder / LIST_FILE).exists() else "exists"
        raise InputError(f"{folder} {what}; give another folder, or remove it", argument="to")


def _planned(images: FileImages, root: Path, max_images: int, max_bytes: int) -> list[list[Source]]:
    """The images of each shard. The hashes of their paths order them, so classes are mixed."""
    sources = _sources(images, root)
    shards: list[list[Source]] = []
    room = 0
    for source in sorted(sources, key=lambda one: (name_hash(one.name), one.name)):
        if not shards or len(shards[-1]) == max_images or room + source.room > max_bytes:
            shards.append([])
            room = 0
        shards[-1].append(source)
        room += source.room
    return shards


def _sources(images: FileImages, root: Path) -> Iterator[Source]:
    """What is to be written; two images of one name that differ in their ending get two keys."""
    start = os.path.join(root, "")  # noqa: PTH118 - with a separator at the end
    keys: set[str] = set()
    for path, label in zip(images.paths, images.labels.tolist(), strict=True):
        name = path.removeprefix(start).replace(os.sep, "/")
        copies, member = 0, encode_name(name)
        while split_key(member)[0] in keys:
            copies += 1
            member = encode_name(name, copies)
        keys.add(split_key(member)[0])
        try:
            found = os.stat(path)  # noqa: PTH116 - a Path for each file costs as much again
            yield Source(path, name, member, label, found.st_size, found.st_mtime_ns)
        except OSError:  # reading it will give the reason
            yield Source(path, name, member, label, 0, 0)


def _write_shard(sources: Sequence[Source], path: Path, done: Written) -> ShardIndex:
    """Write one shard and its index, unless both are there already."""
    origin = _digest(sources)
    index = _kept(path, origin)
    done.shards += 1
    if index is not None:
        done.kept += 1
    else:
        builder = IndexBuilder(str(path))
        bad = len(done.bad)
        with replacing(path, sync=True) as part:
            with part.open("wb") as file:
                tar = TarWriter(file)
                for source in sources:
                    _add(tar, source, builder, done.bad)
                size = tar.finish()
            mark = file_hash(str(part))
        # one that lacks images is written again: they may have been fixed
        origin = origin if len(done.bad) == bad else ""
        index = builder.finish(size, mark, origin)
        write_index(index, path.with_name(path.name + INDEX_ENDING))
    done.bytes += index.bytes
    return index


def _digest(sources: Sequence[Source]) -> str:
    """What tells these images, in their present state, from all others."""
    lines = [f"{one.member}\0{one.label}\0{one.size}\0{one.time}" for one in sources]
    return blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _kept(path: Path, origin: str) -> ShardIndex | None:
    """The index of a shard that an earlier call wrote from the same images; else None."""
    name = path.with_name(path.name + INDEX_ENDING)
    try:
        index = read_shard_index(name.read_bytes(), str(name))
        is_whole = index.bytes == path.stat().st_size and index.mark == file_hash(str(path))
    except (OSError, InputError):
        return None
    return index if is_whole and index.source == origin else None


def _add(tar: TarWriter, source: Source, builder: IndexBuilder, bad: list[BadFile]) -> None:
    """Add an image and its label to a shard and its index; or, if it is bad, to that list."""
    try:
        content = _read_file(source.path)
        check_image_file(ImageBytes(source.path, memoryview(content)))
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, ImageInputError) else ""
        reason = reason or getattr(error, "strerror", None) or str(error)
        bad.append(BadFile(len(bad), source.path, reason))
        return
    key, _ = split_key(source.member)
    offset = tar.add(source.member, content)
    tar.add(f"{key}.cls", str(source.label).encode())
    sample = Sample(source.name, offset, len(content), str(source.label), content)
    builder.add(sample, is_checked=True)


def _read_file(path: str) -> bytes:
    found = os.stat(path)  # noqa: PTH116 - a Path for each file costs as much again
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("a pipe or device")
    if found.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{found.st_size:,} bytes, more than the maximum of {MAX_FILE_BYTES:,}")
    with FileIO(path) as file:  # without a buffer, which costs as much as all the rest
        return file.readall()


def _row(index: ShardIndex, path: Path, part: str) -> dict[str, Any]:
    """What shards.json says of a shard."""
    counts = index.label.bincount(minlength=len(index.texts)).tolist()
    classes = dict(sorted(zip(map(int, index.texts), counts, strict=True)))
    return {
        "file": path.name,
        "part": part,
        "images": len(index),
        "bytes": index.bytes,
        "images_of_class": {str(number): count for number, count in classes.items()},
    }


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove shards of an earlier, unfinished call that are not among those of this one."""
    for path in folder.iterdir():
        is_shard = SHARD_NAME.fullmatch(path.name) is not None
        if is_shard and path.name.removesuffix(INDEX_ENDING) not in names:
            path.unlink()
