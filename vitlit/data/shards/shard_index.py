"""The index of a shard: where each image lies in it, its class and its hashes.

tar file -> ShardIndex of tensors (n,) -> NAME.tar.index, a safetensors file

A tar file has no list of its contents. With one, any image can be read by itself: so shards have
exact counts, the splits, the samplers and the resuming of every other data set. The libraries that
were tried stream instead: webdataset 1.0.2 gave two processes 600 and 401 of 1,001 images, has no
state to resume from and unpickles by default; litdata 0.2.76 has a format of its own, and gave two
processes 500 and 501. Their layout is kept (webdataset's), and fsspec fetches what is far away.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitlit.data.shards.places import is_url, open_stream
from vitlit.data.shards.tar_scan import BLOCK, Sample, scan_tar
from vitlit.errors import InputError
from vitlit.files import printable, replacing
from vitlit.images.image_bytes import ImageBytes, content_hash, file_hash, name_hash
from vitlit.images.image_io import MAX_FILE_BYTES, ImageInputError, check_image_file

INDEX_ENDING = ".index"  # beside the shard: NAME.tar.index
FORMAT = "vitlit shard index 1"
COLUMNS = ("offset", "size", "label", "file_hash", "name_hash", "name_end")


@dataclass
class ShardIndex:
    """The images of one shard, all tensors int64 ``(n,)``.

    offset, size: their bytes; label: places in ``texts``; file_hash, name_hash: of image_bytes;
    name_end: where each name ends in ``names``, uint8; bad: place and reason of each image that
    cannot be read; bytes, mark: size of the tar file and hash of its start and end, 0 if unknown;
    source: what the shard was written from.
    """

    offset: Tensor
    size: Tensor
    label: Tensor
    file_hash: Tensor
    name_hash: Tensor
    name_end: Tensor
    names: Tensor
    texts: list[str]
    bad: list[tuple[int, str]]
    bytes: int
    mark: int = 0
    source: str = ""

    def __len__(self) -> int:
        return len(self.offset)


class IndexBuilder:
    """Makes the index of a shard, sample by sample."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._rows: list[tuple[int, ...]] = []
        self._names = bytearray()
        self._texts: dict[str, int] = {}
        self.bad: list[tuple[int, str]] = []

    def add(self, sample: Sample, *, is_checked: bool = False) -> None:
        """Add an image; unless it was checked, its header and its end are looked at."""
        content = memoryview(sample.content)
        if not is_checked and (reason := _fault(sample)):
            self.bad.append((len(self._rows), reason))
        self._names += sample.name.encode(errors="surrogateescape")
        text = self._texts.setdefault(sample.label, len(self._texts))
        hashes = content_hash(content), name_hash(sample.name)
        self._rows.append((sample.offset, sample.size, text, *hashes, len(self._names)))

    def finish(self, size: int, mark: int = 0, source: str = "") -> ShardIndex:
        """The index of a tar file of ``size`` bytes."""
        rows = torch.tensor(self._rows, dtype=torch.long).view(-1, len(COLUMNS)).T.contiguous()
        names = torch.from_numpy(np.frombuffer(self._names or bytearray(1), dtype=np.uint8))
        columns: Any = dict(zip(COLUMNS, rows, strict=True))
        about: Any = {"bytes": size, "mark": mark, "source": source}
        return ShardIndex(**columns, names=names, texts=[*self._texts], bad=self.bad, **about)


def _fault(sample: Sample) -> str:
    """Why an image cannot be read, as far as its size, its header and its last bytes tell."""
    if len(sample.content) < sample.size:
        return f"{sample.size:,} bytes, more than the maximum of {MAX_FILE_BYTES:,}"
    try:
        check_image_file(ImageBytes(sample.name, memoryview(sample.content)))
    except ImageInputError as error:
        return error.reason
    return ""


def build_index(where: str, size: int) -> ShardIndex:
    """The index of a tar file of ``size`` bytes, which is read once. Raises InputError."""
    builder = IndexBuilder(where)
    with open_stream(where) as stream:
        for sample in scan_tar(stream, where, size):
            builder.add(sample)
    return builder.finish(size, 0 if is_url(where) else file_hash(where))


def write_index(index: ShardIndex, path: Path) -> None:
    """Write the index, whole or not at all."""
    from safetensors.torch import save  # takes time that `--help` has not

    about = {"texts": index.texts, "bad": index.bad, "bytes": index.bytes}
    about |= {"mark": index.mark, "source": index.source, "format": FORMAT}
    tensors = {name: getattr(index, name).clone() for name in (*COLUMNS, "names")}
    with replacing(path, part=path.with_name(f".{path.name}-{os.getpid()}.part")) as part:
        # not save_file, whose file nobody else may read
        part.write_bytes(save(tensors, metadata={"about": json.dumps(about)}))


def read_shard_index(content: bytes, name: str) -> ShardIndex:
    """The index in the bytes of a file called ``name``. Raises InputError if it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        length = int.from_bytes(content[:8], "little")
        about: Any = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["about"])
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']}")
        tensors = load(content)
        columns: Any = {column: tensors[column] for column in (*COLUMNS, "names")}
        index = ShardIndex(
            **columns,
            texts=[str(text) for text in about["texts"]],
            bad=[(int(place), str(reason)) for place, reason in about["bad"]],
            bytes=int(about["bytes"]),
            mark=int(about["mark"]),
            source=str(about["source"]),
        )
        _check(index)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{printable(name)} is no index of a shard ({error}); remove it, and it is made anew"
        ) from error
    return index


def _check(index: ShardIndex) -> None:
    """Raise ValueError for what no shard can have: a file may hold anything."""
    columns: Sequence[Tensor] = [getattr(index, name) for name in COLUMNS]
    if any(one.dtype != torch.long or one.shape != (len(index),) for one in columns):
        raise ValueError("its columns differ in length or kind")
    ends = torch.cat([torch.zeros(1, dtype=torch.long), index.name_end])
    sound = [
        index.names.dtype == torch.uint8,
        bool((ends.diff() >= 0).all()) and int(ends[-1]) <= len(index.names),
        bool((index.offset >= BLOCK).all() and (index.size >= 0).all()),
        bool((index.offset + index.size <= index.bytes).all()),
        bool((index.label >= 0).all() and (index.label < max(1, len(index.texts))).all()),
        all(0 <= place < len(index) for place, _ in index.bad),
    ]
    if not all(sound):
        raise ValueError("its numbers do not fit together")
