"""What the headers of image files say: format, size in pixels, and how colours are stored.

paths -> facts, or None for files that cannot be opened
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from vitlit.images.image_io import ImageInputError, open_image
from vitlit.images.machine import usable_cpus
from vitlit.images.plain_image import TAG_BITS, upright_size

CHUNK_FILES = 256  # that a thread opens at a time
KINDS = {  # Pillow's modes in words
    "1": "black and white",
    "L": "grey",
    "LA": "grey, transparent",
    "P": "palette",
    "PA": "palette, transparent",
    "RGB": "RGB",
    "RGBA": "RGB, transparent",
    "CMYK": "CMYK",
    "YCbCr": "RGB",
    "F": "floating-point grey",
}


class FileFacts(NamedTuple):
    """Format, height and width in pixels as viewers show it, and the kind of its colours."""

    format: str
    height: int
    width: int
    kind: str


def read_facts(paths: Sequence[str]) -> list[FileFacts | None]:
    """The facts of each file; None for those that cannot be opened."""

    def read(start: int) -> list[FileFacts | None]:
        return [_facts(path) for path in paths[start : start + CHUNK_FILES]]

    with ThreadPoolExecutor(usable_cpus()) as pool:
        starts = range(0, len(paths), CHUNK_FILES)
        return [facts for found in pool.map(read, starts) for facts in found]


def _facts(path: str) -> FileFacts | None:
    try:
        with open_image(path) as image:
            height, width = upright_size(image)
            return FileFacts(str(image.format), height, width, _kind(image))
    except ImageInputError:
        return None


def _kind(image: Image.Image) -> str:
    bits = _bits(image)
    if bits > 8 and image.mode != "F":
        return f"{bits}-bit {'grey' if image.mode.startswith('I') else KINDS.get(image.mode, '')}"
    return KINDS.get(image.mode, image.mode)


def _bits(image: Image.Image) -> int:
    """Bits of a channel in the file; Pillow shows 16-bit colour as 8-bit."""
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(TAG_BITS, (8,)))
    tiles: Any = getattr(image, "tile", None)
    tile = tiles[0].args if tiles else ""
    # the name of the stored layout is the first argument of some decoders, the only one of others
    layout = tile if isinstance(tile, str) else str(tile[0]) if tile else ""
    is_deep = ";16" in layout or image.mode.startswith("I")
    return 16 if is_deep else 8
