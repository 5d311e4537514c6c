"""JPEG files: decoded no further down than needed, and at full size by torchvision's library.

opened file -> uint8 (C, h, w), or None: then Pillow decodes it, or says what is wrong with it

Both decoders are built on libjpeg-turbo and give the same pixels. torchvision's is the faster one.
Pillow alone scales while it decodes, and is faster for photographs much larger than needed. Most of
its time then goes into unpacking the bits of all rows, since they can only be read from the top.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from torch import Tensor

from vitlit.images.image_bytes import ImageBytes

# Of the markers that begin a part of the file: those before the sizes of a picture (sequential or
# progressive, in Huffman's code), and the one before its rows.
FRAME_MARKERS, SCAN_MARKER = (0xC0, 0xC1, 0xC2), 0xDA
ROWS_OF_BLOCKS = 32  # the most rows that are stored together; whatever the scale, a whole number
BYTES_AT_ONCE = 1 << 23  # Pillow's usual 64 kB cost 4 % of the time
AS_STORED = 0  # torchvision's ImageReadMode.UNCHANGED: grey stays grey
LIBRARY_NAMES = ("image*.so", "image*.pyd", "image*.dll")  # torchvision's, by system and version


@cache
def _decoder() -> Callable[..., Tensor] | None:
    """torchvision's decoder; None where it is missing or built without libjpeg."""
    # The library alone: importing torchvision takes a second, and torchvision.io is deprecated.
    # Versions that drop it leave nothing to load, and Pillow decodes everything.
    package = find_spec("torchvision")
    for folder in (package and package.submodule_search_locations) or ():
        for file in (file for name in LIBRARY_NAMES for file in Path(folder).glob(name)):
            with suppress(OSError):
                torch.ops.load_library(file)  # type: ignore[no-untyped-call]
    found: Any = getattr(torch.ops.image, "decode_jpeg", None)
    return found


def first_rows(path: str | Path | ImageBytes, image: Image.Image, rows: int) -> Image.Image:
    """The first ``rows`` or more of an opened JPEG file, not decoded; itself, if none are spared.

    The rows that were asked for have the same pixels. What is damaged below them is not noticed.
    For Pillow alone: torchvision's library would print that the file goes on.
    """
    # two more: where colours are stored coarsely, the last row looks different without the next
    kept = -(-(rows + 2) // ROWS_OF_BLOCKS) * ROWS_OF_BLOCKS
    if kept >= image.height:
        return image
    content = _content(path)
    place = _place_of_height(content)
    if place is None or int.from_bytes(content[place : place + 2].tobytes()) != image.height:
        return image
    # The decoder ends after as many rows as the file says that it has, wherever its bytes end.
    content[place : place + 2] = divmod(kept, 256)
    return Image.open(BytesIO(content.data), formats=["JPEG"])


def _content(path: str | Path | ImageBytes) -> NDArray[np.uint8]:
    if isinstance(path, ImageBytes):
        return np.array(memoryview(path.content), dtype=np.uint8)  # its own, to be changed
    return np.fromfile(path, dtype=np.uint8)


def _place_of_height(content: NDArray[np.uint8]) -> int | None:
    """Where a JPEG file holds its number of rows, two bytes; None if that is not found."""
    place = 2  # after the marker of the format
    while place + 9 < len(content) and content[place] == 0xFF:
        marker, high, low = map(int, content[place + 1 : place + 4])
        if marker in FRAME_MARKERS:
            return place + 5
        if marker == SCAN_MARKER:
            return None
        place += 2 + 256 * high + low
    return None


def decode_full_size(path: str | Path | ImageBytes, image: Image.Image) -> Tensor | None:
    """The pixels of an opened JPEG file, as stored: uint8 ``(1 or 3, h, w)``, channels last.

    image: not decoded yet, in mode L or RGB. None if the file is truncated or damaged.
    """
    decode = _decoder()
    if decode is None:
        return None
    content = torch.from_numpy(_content(path))
    try:
        pixels = decode(content, AS_STORED, False)
    except RuntimeError:  # truncated or damaged: Pillow gives the reason
        return None
    expected = len(image.getbands()), image.height, image.width
    return pixels if tuple(pixels.shape) == expected else None


def read_at_once(image: Image.Image) -> None:
    """Let Pillow decode an opened file from large pieces of it."""
    if isinstance(image, ImageFile.ImageFile):
        image.decodermaxblock = BYTES_AT_ONCE
