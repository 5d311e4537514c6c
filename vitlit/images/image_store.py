"""Images with labels, gathered a batch at a time, from memory or from files.

indices int64 (B,) -> uint8 (B, C, h, w)
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from vitlit.augment.geometric import resized_crop_box
from vitlit.images.framing import PLAIN_FRAMING, Framing
from vitlit.images.image_io import (
    Box,
    ImageFile,
    ImageInputError,
    check_image_file,
    read_crop,
    read_image,
)
from vitlit.images.machine import usable_cpus

CHUNK_IMAGES = 64  # images that a thread decodes before it hands them over
MAX_THREADS = 8  # more would wait for each other: much of decoding holds Python's global lock
Found = TypeVar("Found")


class BadFile(NamedTuple):
    """A file that cannot be read: its index among all files of its set, its path, and why."""

    place: int
    path: str
    reason: str


class Images(Protocol):
    """Images with labels int64 ``(n,)``, gathered a batch at a time; files in ``bad`` cannot be."""

    labels: Tensor
    bad: Sequence[BadFile]

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> Tensor:
        """Pixels uint8 ``(B, C, h, w)`` of the samples ``indices``, int64 ``(B,)``."""
        ...


def file_paths(images: Images) -> Sequence[str]:
    """The files that images come from; empty if they come from none."""
    return getattr(images, "paths", ())


def as_targets(labels: Tensor) -> Tensor:
    """Classes of any integer type ``(n,)`` as int64; the targets ``(n, k)`` of other tasks."""
    return labels.long() if labels.ndim == 1 else labels


class MemoryImages:
    """All pixels in one uint8 tensor ``(rows, C, h, w)``, in memory or mapped from a file.

    bad: the files that have no row, although labels ``(n, ...)`` and indices count them; paths: the
    files that the images come from, if any.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        bad: Sequence[BadFile] = (),
        paths: Sequence[str] = (),
    ) -> None:
        self.pixels, self.labels, self.bad, self.paths = pixels, as_targets(labels), bad, paths
        self._rows: Tensor | None = None
        if bad:
            good = torch.ones(len(labels), dtype=torch.bool)
            good[[file.place for file in bad]] = False
            # a bad file points past the end: gathering it is an error, never another image
            self._rows = (good.cumsum(0) - 1).masked_fill(~good, len(pixels))

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: Tensor) -> Tensor:
        """The rows of ``pixels`` that hold the samples ``indices``, both int64 ``(B,)``."""
        return indices if self._rows is None else self._rows[indices]

    def gather(self, indices: Tensor) -> Tensor:
        return self.pixels[self.rows(indices)]


class FileImages:
    """Files that are decoded each time they are gathered, for sets too large for memory."""

    def __init__(
        self,
        paths: Sequence[str],
        labels: Tensor,
        *,
        in_chans: int,
        size: tuple[int, int],
        framing: Framing = PLAIN_FRAMING,
    ) -> None:
        self.paths, self.labels = paths, as_targets(labels)
        self.in_chans, self.size, self.framing = in_chans, size, framing
        self.bad: Sequence[BadFile] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def others(self, paths: list[str]) -> "FileImages":
        """Other files, decoded as these are; their labels are unknown: -1."""
        labels = torch.full((len(paths),), -1)
        how: Any = {"in_chans": self.in_chans, "size": self.size, "framing": self.framing}
        return FileImages(paths, labels, **how)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(n, C, h, w)`` of all images when decoded."""
        return len(self), self.in_chans, *self.size

    @property
    def nbytes(self) -> int:
        """Bytes that all images take when decoded."""
        return len(self) * self.in_chans * self.size[0] * self.size[1]

    def image_files(self, indices: Tensor) -> Sequence[ImageFile]:
        """What the images ``indices``, int64 ``(B,)``, are read from, a batch at a time."""
        return [self.paths[index] for index in indices.tolist()]

    def key_lines(self, root: Path) -> Iterator[str]:
        """What tells these files from other or newer ones below ``root``: lines of text."""
        start = len(str(root)) + 1
        for path in self.paths:
            try:
                found = os.stat(path)  # noqa: PTH116 - a Path for each file costs as much again
            except OSError:  # decoding will name the file and the reason
                yield path[start:]
            else:
                yield f"{path[start:]}\0{found.st_size}\0{found.st_mtime_ns}"

    def gather(self, indices: Tensor) -> Tensor:
        return torch.stack([self._read(file) for file in self.image_files(indices)])

    def _read(self, path: ImageFile) -> Tensor:
        return read_image(path, in_chans=self.in_chans, size=self.size, framing=self.framing)

    def read(self, indices: Tensor) -> tuple[Tensor, list[BadFile]]:
        """Like ``gather``, but a file that cannot be read gives a black image and an entry."""
        pixels = torch.zeros(len(indices), *self.shape[1:], dtype=torch.uint8)
        bad = []
        places = indices.tolist()
        for row, (index, file) in enumerate(zip(places, self.image_files(indices), strict=True)):
            try:
                pixels[row] = self._read(file)
            except ImageInputError as error:
                bad.append(BadFile(index, self.paths[index], error.reason))
        return pixels, bad

    def gather_crops(
        self,
        indices: Tensor,
        draws: Tensor,
        *,
        scale: tuple[float, float],
        ratio: tuple[float, float],
    ) -> Tensor:
        """Random boxes cut out at the files' own resolution, resized (antialiased bilinear).

        draws: ``(B, 22)`` in [0, 1); scale: range of the share of the area; ratio: range of width /
        height; see :func:`vitlit.augment.geometric.resized_crop_box`. Returns uint8
        ``(B, C, h, w)``.
        """

        def read(file: ImageFile, row: Tensor) -> Tensor:
            def choose(height: int, width: int) -> Box:
                return resized_crop_box(row, height=height, width=width, scale=scale, ratio=ratio)

            return read_crop(file, in_chans=self.in_chans, size=self.size, choose=choose)

        return torch.stack(
            [read(file, row) for file, row in zip(self.image_files(indices), draws, strict=True)]
        )

    def decode(self, take: Callable[[Tensor], object]) -> list[BadFile]:
        """Decode every file once, on all cores; ``take`` gets uint8 ``(k, C, h, w)`` in order.

        Returns the files that cannot be read; ``take`` does not get them.
        """
        bad: list[BadFile] = []
        chunks = torch.split(torch.arange(len(self)), CHUNK_IMAGES)
        # closing: if take fails, because the disk is full, the threads stop at once
        with closing(_on_all_cores(self.read, chunks)) as results:
            for chunk, (pixels, found) in zip(chunks, results, strict=True):
                bad += found
                take(pixels[~is_among(found, chunk)] if found else pixels)
        return bad

    def decode_all(self) -> MemoryImages:
        """Decode every file once, into memory."""
        pixels = torch.empty(self.shape, dtype=torch.uint8)
        count = 0

        def take(chunk: Tensor) -> None:
            nonlocal count
            pixels[count : count + len(chunk)] = chunk
            count += len(chunk)

        bad = self.decode(take)
        return MemoryImages(pixels[:count], self.labels, bad, self.paths)

    def check(self) -> list[BadFile]:
        """The files whose size, header or last bytes say that they cannot be read."""

        def check(indices: Tensor) -> list[BadFile]:
            bad = []
            for index, file in zip(indices.tolist(), self.image_files(indices), strict=True):
                try:
                    check_image_file(file)
                except ImageInputError as error:
                    bad.append(BadFile(index, self.paths[index], error.reason))
            return bad

        chunks = torch.split(torch.arange(len(self)), CHUNK_IMAGES)
        return [file for found in _on_all_cores(check, chunks) for file in found]


def is_among(bad: Sequence[BadFile], indices: Tensor) -> Tensor:
    """Whether each index is that of a bad file: bool, the shape of ``indices``."""
    return torch.isin(indices, torch.tensor([file.place for file in bad], dtype=torch.long))


def _on_all_cores(work: Callable[[Tensor], Found], chunks: Sequence[Tensor]) -> Generator[Found]:
    """The result of ``work`` for each chunk of indices, in order, from a pool of threads."""
    # Threads, not processes: pixels need no copy from one process to another.
    pool = ThreadPoolExecutor(min(MAX_THREADS, usable_cpus()))
    total = sum(map(len, chunks))
    try:
        # delay: no bar for sets that are read within a second; disable=None: none in a file
        options: Any = {"leave": False, "delay": 1, "disable": None, "dynamic_ncols": True}
        with tqdm(total=total, desc="reading images", unit="img", **options) as bar:
            for chunk, found in zip(chunks, pool.map(work, chunks), strict=True):
                yield found
                bar.update(len(chunk))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the remaining chunks are not wanted
