"""JPEG files decoded at full size by torchvision's library, which is faster than Pillow's.

opened file -> uint8 (C, h, w), or None: then Pillow decodes it, or says what is wrong with it

Both are built on libjpeg-turbo and give the same pixels. Pillow alone scales while it decodes, and
stays the faster one for photographs much larger than needed.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitlit.images.image_bytes import ImageBytes

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


def decode_full_size(path: str | Path | ImageBytes, image: Image.Image) -> Tensor | None:
    """The pixels of an opened JPEG file, as stored: uint8 ``(1 or 3, h, w)``, channels last.

    image: not decoded yet, in mode L or RGB. None if the file is truncated or damaged.
    """
    decode = _decoder()
    if decode is None:
        return None
    if isinstance(path, ImageBytes):
        content = torch.from_numpy(np.frombuffer(path.content, dtype=np.uint8))
    else:
        content = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    try:
        pixels = decode(content, AS_STORED, False)
    except RuntimeError:  # truncated or damaged: Pillow gives the reason
        return None
    expected = len(image.getbands()), image.height, image.width
    return pixels if tuple(pixels.shape) == expected else None
