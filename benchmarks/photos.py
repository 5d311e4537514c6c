"""Photographs made by a rule: the same on every machine, about as hard to decode as real ones.

number, size -> JPEG files of quality 90

Natural images have about as much contrast in every octave of detail (Field, 1987), and little
colour in the fine ones. 500x375 pixels become about 78 kB, 12 megapixels about 4.9 MB.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

SMALL, LARGE = (500, 375), (4000, 3000)  # width, height
CELLS = (512, 256, 128, 64, 32, 16, 8, 4, 2)  # pixels from one random value to the next
CONTRAST = 22.0  # standard deviation of each octave, in grey levels, before the interpolation
COLOUR_CELL = 16  # the finest octave with colour
QUALITY = 90


def photo(number: int, size: tuple[int, int]) -> Image.Image:
    """Photograph ``number``; size: (width, height)."""
    draw = torch.Generator().manual_seed(number)
    width, height = size
    pixels = torch.full((1, 3, height, width), 128.0)
    for cell in CELLS:
        shape = height // cell + 2, width // cell + 2
        grey = torch.randn(1, 1, *shape, generator=draw)
        colour = torch.randn(1, 3, *shape, generator=draw) if cell >= COLOUR_CELL else 0
        pixels += CONTRAST * _enlarged(grey + 0.4 * colour, size)
    rows = pixels[0].clamp(0, 255).byte().permute(1, 2, 0).contiguous()
    return Image.fromarray(rows.numpy())


def _enlarged(grid: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(grid, size[::-1], mode="bicubic")


def write_photos(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Files 0.jpg, 1.jpg, … in a new folder."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        photo(number, size).save(path, quality=QUALITY)
    return paths
