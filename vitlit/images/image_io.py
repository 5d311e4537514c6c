"""One image file, opened safely and decoded to what a viewer shows, whatever its format.

file -> upright, opaque, 8-bit image, grey or RGB -> uint8 (C, h, w)

Only ``IMAGE_FORMATS`` are opened; Pillow passes none of them on to other programs. Of animations
and files with several pages the first picture is read; colour profiles are not applied.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from vitlit.errors import InputError, find_text
from vitlit.files import printable

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MAX_FILE_BYTES = 2**29  # larger files are refused before they are read into memory
# Pillow refuses more, too, unless its limit is changed: a small file can unpack to fill the memory.
MAX_PIXELS = 178_956_970
LARGE_PIXELS = 2**25  # a process decodes larger images one at a time, to spare memory
# The last bytes of complete files, by which a file that was cut short is found without decoding.
END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
# TIFF 6.0: three tags, and the value of the third for signed integers.
TAG_BITS, TAG_PHOTOMETRIC, TAG_SAMPLE_FORMAT, SIGNED_SAMPLES = 258, 262, 339, 2
TAG_ORIENTATION = 0x0112  # tag of EXIF and TIFF
EXIF_TURNS = {  # what makes an image upright, by the value of the tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_large_image_lock = Lock()


class ImageInputError(InputError):
    """A file that cannot be read as an image, and why."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def _short_reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    text = " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({' '.join(IMAGE_FORMATS)}), or cut short"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the maximum of {MAX_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    if find_text("cut image", text):
        return "cut short"
    return text or type(error).__name__


def _check_file_size(path: str | Path) -> None:
    """Raise ValueError for no regular file (a pipe would hang), an empty or a too large one."""
    found = os.stat(path)  # noqa: PTH116 - a Path for each file costs as much again
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device")
    if found.st_size == 0:
        raise ValueError("empty")
    if found.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{found.st_size:,} bytes, more than the maximum of {MAX_FILE_BYTES:,}")


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """The image in a file, not decoded yet.

    Whatever goes wrong, here or in the ``with`` block, becomes an ImageInputError that names the
    file.
    """
    try:
        _check_file_size(path)
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:  # not left to Pillow: its limit is a global variable
                raise Image.DecompressionBombError
            _scale_key(image)
            with _large_image_lock if pixels > LARGE_PIXELS else nullcontext():
                yield image
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types; whatever it is, this file is the cause
        reason = _short_reason(error)
        message = f"cannot read the image {printable(path)}: {reason}; fix or remove it"
        raise ImageInputError(message, reason) from error


def check_image_file(path: str | Path) -> None:
    """Raise ImageInputError if a file's size, header or last bytes say that it cannot be read.

    A file that does not end with the marker of its format is decoded, to see if it is complete.
    """
    with open_image(path) as image:
        mark = END_MARKERS.get(str(image.format))
        if mark is None or not _file_ends_with(path, mark):
            image.load()


def _file_ends_with(path: str | Path, mark: bytes) -> bool:
    with Path(path).open("rb") as file:
        file.seek(-len(mark), os.SEEK_END)
        return file.read() == mark


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) if it is missing or invalid."""
    try:
        found = image.getexif().get(TAG_ORIENTATION, 1)
    except Exception:  # broken EXIF data are no reason to lose the pixels
        return 1
    return found if found in EXIF_TURNS else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width in pixels that :func:`to_plain_image` gives an opened image."""
    # From 5 on the orientation swaps the sides. Pillow has already rotated TIFF files.
    swaps = _orientation(image) >= 5 and not isinstance(image, TiffImageFile)
    return image.size if swaps else (image.height, image.width)


def to_plain_image(image: Image.Image, in_chans: int) -> Image.Image:
    """Decode an opened image: upright, opaque, 8 bits, grey (1 channel) or RGB."""
    mode = "L" if in_chans == 1 else "RGB"
    image.load()  # before the orientation is asked for: EXIF data may follow the pixels
    turn = _orientation(image)
    if image.mode != mode or image.has_transparency_data:  # RGB photographs need no copy
        image = _on_white(_to_8_bit(image)).convert(mode)
    return image.transpose(EXIF_TURNS[turn]) if turn in EXIF_TURNS else image


def _scale_key(image: Image.Image) -> None:
    """Scale the transparent value of a PNG to 8 bits: Pillow scales only the pixels."""
    tiles: Any = getattr(image, "tile", None)
    found = re.search(r";(\d+)", str(tiles[0].args)) if tiles and image.format == "PNG" else None
    key, bits = image.info.get("transparency"), int(found[1]) if found else 8
    if bits < 8 and isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = key * 255 // (2**bits - 1)
    if bits > 8 and isinstance(key, tuple):  # Pillow keeps the upper 8 bits of each colour
        image.info["transparency"] = tuple(value >> (bits - 8) for value in key)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits to 8; Pillow's own conversion would clip it."""
    if not image.mode.startswith(("I", "F")):
        return image
    values, key = np.asarray(image), image.info.get("transparency")
    grey = _scale_floats(values) if image.mode == "F" else _scale_integers(values, image)
    if isinstance(key, int):  # transparent pixels become white, as in _on_white
        grey[values == key] = 255
    return Image.fromarray(grey)


def _scale_integers(values: NDArray[Any], image: Image.Image) -> NDArray[np.uint8]:
    """White is the largest number of the type (TIFF 6.0, page 37); negative numbers are black."""
    tags: Any = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    bits, kind = tags.get(TAG_BITS, (16,))[0], tags.get(TAG_SAMPLE_FORMAT, (1,))[0]
    if bits == 32 and kind != SIGNED_SAMPLES:
        values = values.view(np.uint32)  # Pillow has only signed 32-bit pixels
    white = 2 ** (bits - 1) - 1 if kind == SIGNED_SAMPLES else 2**bits - 1
    # photometric interpretation 0 is WhiteIsZero
    return _stretch_range(values, white, inverted=tags.get(TAG_PHOTOMETRIC) == 0)


def _scale_floats(values: NDArray[Any]) -> NDArray[np.uint8]:
    """White is 1, 255 or 65535: the smallest of them that is at least half the largest value."""
    # Float files do not say what white is. Half, because resampled images overshoot white.
    highest = float(values.max())  # NaN if any value is NaN
    if not np.isfinite(highest) or not np.isfinite(float(values.min())):
        raise ValueError("pixels that are not finite numbers")
    white = next((top for top in (1, 255, 65535) if highest <= 2 * top), None)
    if white is None:
        raise ValueError(f"float pixels up to {highest:g}, for which no white is known")
    return _stretch_range(values, white)


def _stretch_range(
    values: NDArray[Any], white: int, *, inverted: bool = False
) -> NDArray[np.uint8]:
    """Scale 0..``white`` to 0..255, rounded; float32 is exact enough for 256 levels."""
    levels = np.rint(values.astype(np.float32) * np.float32(255 / white)).clip(0, 255)
    grey = levels.astype(np.uint8)
    return 255 - grey if inverted else grey


def _on_white(image: Image.Image) -> Image.Image:
    """Blend a transparent image with white, as viewers show it."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image)


Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def _resize(image: Image.Image, size: tuple[int, int], mode: str) -> Tensor:
    """Antialiased resampling to ``size`` (height, width): uint8 ``(C, height, width)``."""
    # torch's is four times as fast as Pillow's, and at most one grey level away from it
    pixels = torch.from_numpy(np.array(image))  # (h, w) or (h, w, C)
    # a view with channels last, which torch resamples twice as fast as separate planes
    x = pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]
    if tuple(x.shape[-2:]) != size:
        x = F.interpolate(x, size, mode=mode, antialias=True)
    return x[0]


def _trim_ends(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut the ends of an image that is more than four times as long as ``size`` needs."""
    # A panorama of 1 x 10,000 pixels scaled to cover 224 x 224 would have 2.24 million columns.
    height, width = size
    rows = max(0, image.height - 4 * -(-image.width * height // width)) // 2
    cols = max(0, image.width - 4 * -(-image.height * width // height)) // 2
    if rows == cols == 0:
        return image
    return image.crop((cols, rows, image.width - cols, image.height - rows))


def _fit_size(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Scale to cover ``size`` (height, width) and crop the centre, keeping proportions.

    Sizes and offsets equal those of torchvision's ``Resize`` (bicubic) and ``CenterCrop``.
    """
    height, width = size
    image = _trim_ends(image, size)
    if image.height * width <= image.width * height:
        cover = height, image.width * height // image.height
    else:
        cover = image.height * width // image.width, width
    top, left = round((cover[0] - height) / 2), round((cover[1] - width) / 2)
    return _resize(image, cover, "bicubic")[:, top : top + height, left : left + width]


def read_image(path: str | Path, *, in_chans: int, size: tuple[int, int]) -> Tensor:
    """Decode one file, upright, in grey (1 channel) or colour (3), fitted to ``size``.

    size: (height, width) in pixels. Returns uint8 ``(in_chans, height, width)``.
    """
    with open_image(path) as image:
        # JPEG only: the decoder itself scales down by 2, 4 or 8, to at least twice the final size
        # so that the rest is antialiased. 12 megapixels take 22-32 ms instead of 167.
        side = 2 * max(size)
        image.draft("RGB", (side, side))
        return _fit_size(to_plain_image(image, in_chans), size).contiguous()


def read_crop(
    path: str | Path, *, in_chans: int, size: tuple[int, int], choose: Callable[[int, int], Box]
) -> Tensor:
    """Decode one file, cut a box out of it, and resize the box to ``size``.

    size: (height, width) in pixels; choose: gets the upright image's height and width, returns the
    box. Returns uint8 ``(in_chans, height, width)``, antialiased bilinear.
    """
    with open_image(path) as image:
        full = upright_size(image)
        top, left, height, width = choose(*full)
        # JPEG only: a box at least twice as large as the result needs no full resolution. The box
        # is chosen first, in pixels of the file, so draft does not change what is drawn.
        surplus = max(1, min(height // (2 * size[0]), width // (2 * size[1])))
        image.draft("RGB", (image.width // surplus, image.height // surplus))
        whole = to_plain_image(image, in_chans)
        x, y = whole.width / full[1], whole.height / full[0]  # 1, or the scale of draft
        left, top = round(left * x), round(top * y)
        box = left, top, left + round(width * x), top + round(height * y)
        return _resize(whole.crop(box), size, "bilinear").contiguous()
