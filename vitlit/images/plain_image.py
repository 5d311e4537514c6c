"""An opened image as viewers show it, whatever its file holds: upright, opaque, 8 bits.

Pillow's image, not decoded yet -> decoded, grey (mode L) or RGB
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

MODES = {1: "L", 3: "RGB"}  # Pillow's names, by the number of channels
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


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) if it is missing or invalid."""
    try:
        found = image.getexif().get(TAG_ORIENTATION, 1)
    except Exception:  # broken EXIF data are no reason to lose the pixels
        return 1
    return found if found in EXIF_TURNS else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width in pixels that :func:`to_plain_image` gives an opened image."""
    # From 5 on the orientation swaps the sides. Pillow has already rotated TIFF files.
    swaps = orientation(image) >= 5 and not isinstance(image, TiffImageFile)
    return image.size if swaps else (image.height, image.width)


def to_plain_image(image: Image.Image, in_chans: int) -> Image.Image:
    """Decode an opened image: upright, opaque, 8 bits, grey (1 channel) or RGB."""
    mode = MODES[in_chans]
    image.load()  # before the orientation is asked for: EXIF data may follow the pixels
    turn = orientation(image)
    if image.mode != mode or image.has_transparency_data:  # RGB photographs need no copy
        image = _on_white(_to_8_bit(image)).convert(mode)
    return image.transpose(EXIF_TURNS[turn]) if turn in EXIF_TURNS else image


def scale_key(image: Image.Image) -> None:
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
