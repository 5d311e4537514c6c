"""Images with labels, read a batch at a time, from memory or from files.

indices int64 (B,) -> uint8 (B, C, h, w)
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from vitlit.augment import resized_crop_boxes
from vitlit.images import Box, read_crop, read_image

CHUNK = 64  # images that a thread decodes before it hands them over
MAX_THREADS = 8  # more wait for each other: a good part of decoding holds Python's lock


class Images(Protocol):
    """Images with labels, read a batch at a time."""

    labels: Tensor

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> Tensor:
        """uint8 ``(B, C, h, w)`` of the samples at ``indices`` int64 ``(B,)``."""
        ...


class MemoryImages:
    """All pixels in one uint8 tensor ``(n, C, h, w)``, in memory or mapped from a file."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels.long()

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: Tensor) -> Tensor:
        return self.pixels[indices]


class FileImages:
    """Files decoded each time they are asked for: for sets too large for memory."""

    def __init__(
        self, paths: list[str], labels: Tensor, *, in_chans: int, size: tuple[int, int]
    ) -> None:
        self.paths, self.labels = paths, labels.long()
        self.in_chans, self.size = in_chans, size

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(n, C, h, w)`` of all images once decoded."""
        return len(self), self.in_chans, *self.size

    @property
    def nbytes(self) -> int:
        """Bytes that all images take once decoded."""
        return len(self) * self.in_chans * self.size[0] * self.size[1]

    def gather(self, indices: Tensor) -> Tensor:
        paths = [self.paths[index] for index in indices.tolist()]
        return torch.stack(
            [read_image(path, in_chans=self.in_chans, size=self.size) for path in paths]
        )

    def gather_crops(
        self,
        indices: Tensor,
        draws: Tensor,
        *,
        scale: tuple[float, float],
        ratio: tuple[float, float],
    ) -> Tensor:
        """Random boxes of the images as they are on disk, resized (antialiased bilinear).

        draws: ``(B, 22)`` in [0, 1); scale: shares of the area; ratio: width to height; see
        :func:`vitlit.augment.resized_crop_boxes`. Returns uint8 ``(B, C, h, w)``.
        """

        def read(index: int, row: Tensor) -> Tensor:
            def choose(height: int, width: int) -> Box:
                boxes = resized_crop_boxes(
                    row[None], height=height, width=width, scale=scale, ratio=ratio
                )
                top, left, rows, cols = boxes[0].tolist()
                return top, left, rows, cols

            path = self.paths[index]
            return read_crop(path, in_chans=self.in_chans, size=self.size, choose=choose)

        return torch.stack(
            [read(index, row) for index, row in zip(indices.tolist(), draws, strict=True)]
        )

    def decode(self, take: Callable[[Tensor], object]) -> None:
        """Decode every file once, on all cores; ``take`` gets uint8 ``(k, C, h, w)`` in order."""
        pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
        chunks = torch.split(torch.arange(len(self)), CHUNK)
        try:
            with tqdm(total=len(self), desc="decoding", unit="img", leave=False) as bar:
                for pixels in pool.map(self.gather, chunks):
                    take(pixels)
                    bar.update(len(pixels))
        finally:
            pool.shutdown(cancel_futures=True)  # what is left is not wanted after an error

    def decode_all(self) -> MemoryImages:
        """Decode every file once, into memory."""
        pixels = torch.empty(self.shape, dtype=torch.uint8)
        rows: Iterator[Tensor] = iter(torch.split(pixels, CHUNK))
        self.decode(lambda chunk: next(rows).copy_(chunk))
        return MemoryImages(pixels, self.labels)
