"""One image file, opened safely and decoded to what a viewer shows, whatever its format.

file -> upright, opaque, 8-bit image, grey or RGB -> uint8 (C, h, w)

Only ``IMAGE_FORMATS`` are opened; Pillow passes none of them on to other programs. Of animations
and files with several pages the first picture is read; colour profiles are not applied.
"""

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vitlit.errors import InputError, find_text
from vitlit.files import printable
from vitlit.images.framing import PLAIN_FRAMING, Framing
from vitlit.images.image_bytes import ImageBytes
from vitlit.images.jpeg import decode_full_size, first_rows, read_at_once
from vitlit.images.plain_image import MODES, orientation, scale_key, to_plain_image, upright_size

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MAX_FILE_BYTES = 2**29  # larger files are refused before they are read into memory
# Pillow refuses more, too, unless its limit is changed: a small file can unpack to fill the memory.
MAX_PIXELS = 178_956_970
# Images that are longer than this many inputs side by side lose their ends before they are resized.
MAX_SURPLUS = 32
LARGE_PIXELS = 2**25  # a process decodes larger images one at a time, to spare memory
# The last bytes of complete files, by which a file that was truncated is found without decoding.
END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
ImageFile = str | Path | ImageBytes
Decoded = Image.Image | Tensor  # upright, opaque, 8 bits; a tensor is (C, h, w)
_large_image_lock = Lock()


class ImageInputError(InputError):
    """A file that cannot be read as an image, and why."""

    def __init__(
        self, message: str, reason: str = "", argument: str | tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, argument=argument)
        self.reason = reason


def _short_reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    text = " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({' '.join(IMAGE_FORMATS)}), or truncated"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the maximum of {MAX_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    if find_text("cut image", text):
        return "truncated"
    return text or type(error).__name__


def _check_file_size(path: ImageFile) -> None:
    """Raise ValueError for no regular file (a pipe would hang), an empty or a too large one."""
    if isinstance(path, ImageBytes):
        if path.fault:
            raise ValueError(path.fault)
        size = len(path.content)
    else:
        found = os.stat(path)  # noqa: PTH116 - a Path for each file costs as much again
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device")
        size = found.st_size
    if size == 0:
        raise ValueError("empty")
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{size:,} bytes, more than the maximum of {MAX_FILE_BYTES:,}")


def _silence_pillow() -> None:
    """Drop Pillow's warning of images with more than half of MAX_PIXELS, which is the limit here.

    Not by catch_warnings, which is not safe in threads.
    """
    kind = Image.DecompressionBombWarning
    if ("ignore", None, kind, None, 0) not in warnings.filters:
        warnings.simplefilter("ignore", kind)


@contextmanager
def open_image(path: ImageFile) -> Iterator[Image.Image]:
    """The image in a file, not decoded yet.

    Whatever goes wrong, here or in the ``with`` block, becomes an ImageInputError that names the
    file.
    """
    try:
        _check_file_size(path)
        _silence_pillow()
        file = io.BytesIO(path.content) if isinstance(path, ImageBytes) else path
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:  # not left to Pillow: its limit is a global variable
                raise Image.DecompressionBombError
            scale_key(image)
            with _large_image_lock if pixels > LARGE_PIXELS else nullcontext():
                yield image
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types; whatever it is, this file is the cause
        reason = _short_reason(error)
        message = f"cannot read the image {printable(str(path))}: {reason}"
        if isinstance(path, ImageBytes):  # in a shard, from which no file can be removed
            message += "; on_bad_image skip leaves it out"
            raise ImageInputError(message, reason, argument="on_bad_image") from error
        raise ImageInputError(f"{message}; fix or remove it", reason) from error


def check_image_file(path: ImageFile) -> None:
    """Raise ImageInputError if a file's size, header or last bytes say that it cannot be read.

    A file that does not end with the marker of its format is decoded, to see if it is complete.
    """
    with open_image(path) as image:
        mark = END_MARKERS.get(str(image.format))
        if mark is None or not _file_ends_with(path, mark):
            image.load()


def _file_ends_with(path: ImageFile, mark: bytes) -> bool:
    if isinstance(path, ImageBytes):
        return bytes(path.content[-len(mark) :]) == mark
    with Path(path).open("rb") as file:
        file.seek(-len(mark), os.SEEK_END)
        return file.read() == mark


Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def _decode(path: ImageFile, image: Image.Image, in_chans: int, side: tuple[int, int]) -> Decoded:
    """Decode an opened image, as :func:`to_plain_image` does, perhaps scaled down.

    side: (width, height) that suffice. Pillow's image, or a tensor uint8 ``(in_chans, h, w)``.
    """
    # JPEG only: the decoder itself scales down by 2, 4 or 8. 12 megapixels take 22-32 ms, not 167.
    size = image.size
    image.draft("RGB", side)
    read_at_once(image)
    if image.format == "JPEG" and image.size == size and image.mode == MODES[in_chans]:
        found = decode_full_size(path, image) if orientation(image) == 1 else None
        if found is not None:
            return found
    return to_plain_image(image, in_chans)


def _height_and_width(image: Decoded) -> tuple[int, int]:
    if isinstance(image, Tensor):
        return image.shape[-2], image.shape[-1]
    return image.height, image.width


def _cut(image: Decoded, box: Box) -> Tensor:
    """A box of a decoded image: uint8 ``(C, height, width)``, channels last in memory."""
    top, left, height, width = box
    if isinstance(image, Tensor):
        return image[:, top : top + height, left : left + width]
    if box != (0, 0, *_height_and_width(image)):
        image = image.crop((left, top, left + width, top + height))
    pixels = torch.from_numpy(np.array(image))  # (h, w) or (h, w, C)
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _resize(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Antialiased resampling to ``size`` (height, width): uint8 ``(C, height, width)``."""
    # torch's is four times as fast as Pillow's, and at most one grey level away from it; with
    # channels last in memory twice as fast as with separate planes
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return F.interpolate(pixels[None], size, mode=mode, antialias=True)[0]


def _without_ends(shape: tuple[int, int], size: tuple[int, int]) -> Box:
    """The middle of an image that is far longer than ``size`` needs; else all of it."""
    # A panorama of 1 x 10,000 pixels scaled to cover 224 x 224 would have 2.24 million columns.
    (rows, cols), (height, width) = shape, size
    top = max(0, rows - MAX_SURPLUS * -(-cols * height // width)) // 2
    left = max(0, cols - MAX_SURPLUS * -(-rows * width // height)) // 2
    return top, left, rows - 2 * top, cols - 2 * left


def _fit_size(image: Decoded, size: tuple[int, int], framing: Framing) -> Tensor:
    """Resize as ``framing`` says and take the centre ``size`` (height, width), padded if need be.

    Sizes and offsets equal those of torchvision's ``Resize`` and ``CenterCrop``.
    """
    shape = _height_and_width(image)
    box = _without_ends(shape, size) if framing.fit == "cover" else (0, 0, *shape)
    pixels = _cut(image, box)
    (rows, cols), (height, width) = pixels.shape[-2:], size
    resized = _resize(pixels, framing.resized((rows, cols), size), framing.interpolation)
    resized = _padded(resized, size, framing.fill)
    top, left = (round((a - b) / 2) for a, b in zip(resized.shape[-2:], size, strict=True))
    return resized[:, top : top + height, left : left + width]


def _padded(pixels: Tensor, size: tuple[int, int], fill: tuple[int, ...]) -> Tensor:
    """At least ``size`` (height, width): the image in the middle of a plane of the colour."""
    channels, rows, cols = pixels.shape
    height, width = max(rows, size[0]), max(cols, size[1])
    if (height, width) == (rows, cols):
        return pixels
    colour = torch.tensor(fill, dtype=torch.uint8).expand(channels).view(-1, 1, 1)
    plane = colour.repeat(1, height, width)
    top, left = (height - rows) // 2, (width - cols) // 2
    plane[:, top : top + rows, left : left + cols] = pixels
    return plane


def read_image(
    path: ImageFile, *, in_chans: int, size: tuple[int, int], framing: Framing = PLAIN_FRAMING
) -> Tensor:
    """Decode one file, upright, in grey (1 channel) or colour (3), fitted to ``size``.

    size: (height, width) in pixels. Returns uint8 ``(in_chans, height, width)``.
    """
    with open_image(path) as image:
        # at least twice the final size, so that the rest is antialiased
        side = 2 * max(framing.fitted_to(size))
        return _fit_size(_decode(path, image, in_chans, (side, side)), size, framing).contiguous()


def read_crop(
    path: ImageFile, *, in_chans: int, size: tuple[int, int], choose: Callable[[int, int], Box]
) -> Tensor:
    """Decode one file, cut a box out of it, and resize the box to ``size``.

    size: (height, width) in pixels; choose: gets the upright image's height and width, returns the
    box. Returns uint8 ``(in_chans, height, width)``, antialiased bilinear.
    """
    with open_image(path) as image:
        full = upright_size(image)
        top, left, height, width = choose(*full)
        # A box at least twice as large as the result needs no full resolution. The box is chosen
        # first, in pixels of the file, so scaled decoding does not change what is drawn.
        surplus = max(1, min(height // (2 * size[0]), width // (2 * size[1])))
        stored = image.height
        # Turned images end elsewhere; those at full size are not decoded by Pillow.
        if image.format == "JPEG" and surplus > 1 and orientation(image) == 1:
            image = first_rows(path, image, top + height)
        kept, side = image.height, (image.width // surplus, image.height // surplus)
        part = _decode(path, image, in_chans, side)
        there, cols = _height_and_width(part)
        rows = -(-there * stored // kept)  # of the whole image; fewer are a multiple of 8
        y, x = rows / full[0], cols / full[1]  # 1, or the scale of the decoder
        # the ends are rounded, not the sides: a box that reaches the edge ends there
        upper, start = round(top * y), round(left * x)
        lower, end = min(there, round((top + height) * y)), min(cols, round((left + width) * x))
        box = upper, start, lower - upper, end - start
        return _resize(_cut(part, box), size, "bilinear").contiguous()
