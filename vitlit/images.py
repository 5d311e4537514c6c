"""Image files to tensors, and tensors to what a model takes.

file -> uint8 (C, h, w) -> batch uint8 (B, C, h, w) -> float (B, C, H, W)
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from vitlit.errors import InputError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
Box = tuple[int, int, int, int]  # top, left, height, width in pixels
ORIENTATION = 0x0112  # EXIF's tag
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights that turn RGB to grey


def is_image_name(name: str) -> bool:
    """Whether a file name looks like an image; hidden files do not."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def list_images(folder: str | Path) -> list[str]:
    """Image files below a folder, sorted, hidden files and folders left out."""
    found: list[str] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [f"{root}{os.sep}{name}" for name in sorted(names) if is_image_name(name)]
    return found


def find_images(paths: Iterable[str]) -> list[str]:
    """Image files named directly, or found below the folders named."""

    def expand(path: Path) -> Iterator[str]:
        if path.is_dir():
            found = list_images(path)
            if not found:
                raise InputError(f"no images in {path}; known endings: {' '.join(EXTENSIONS)}")
            yield from found
        elif path.is_file():
            yield str(path)
        else:
            raise InputError(f"no such file or folder: {path}; check --data.images")

    return [file for path in paths for file in expand(Path(path).expanduser())]


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit and float greyscale to 8 bits; PIL's own conversion would clip."""
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 65535)
        return Image.fromarray((values // 257).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        scale = 255.0 if values.max() <= 1.0 else 1.0
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))
    return image


def _on_white(image: Image.Image) -> Image.Image:
    """Lay a transparent image on white, as viewers show it."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image)


def _is_turned(image: Image.Image) -> bool:
    """Whether the camera stored the image lying on its side: width and height swap."""
    return image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)


def _plain(image: Image.Image, in_chans: int) -> Image.Image:
    """Decode: upright, opaque, 8 bits, grey (1 channel) or RGB."""
    mode = "L" if in_chans == 1 else "RGB"
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == mode and not image.has_transparency_data:  # each step below copies
        return image
    return _on_white(_to_8_bit(image)).convert(mode)


def _resize(image: Image.Image, size: tuple[int, int], mode: str) -> Tensor:
    """Antialiased resampling to ``size`` (height, width): uint8 ``(C, height, width)``.

    torch's is four times as fast as Pillow's and at most one level away from it.
    """
    pixels = torch.from_numpy(np.array(image))  # (h, w) or (h, w, C)
    # a view with the channels last: torch resamples it twice as fast as planes
    x = pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]
    if tuple(x.shape[-2:]) != size:
        x = F.interpolate(x, size, mode=mode, antialias=True)
    return x[0]


def _trim(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut the ends of an image four times as long as needed: scaling it to cover stays cheap."""
    height, width = size
    rows = max(0, image.height - 4 * -(-image.width * height // width)) // 2
    cols = max(0, image.width - 4 * -(-image.height * width // height)) // 2
    if rows == cols == 0:
        return image
    return image.crop((cols, rows, image.width - cols, image.height - rows))


def _fit(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Scale to cover ``size`` (height, width) and cut the centre, keeping proportions.

    As torchvision's ``Resize`` (bicubic) and ``CenterCrop`` do it, to the pixel.
    """
    height, width = size
    image = _trim(image, size)
    if image.height * width <= image.width * height:
        cover = height, image.width * height // image.height
    else:
        cover = image.height * width // image.width, width
    top, left = round((cover[0] - height) / 2), round((cover[1] - width) / 2)
    return _resize(image, cover, "bicubic")[:, top : top + height, left : left + width]


@contextmanager
def _blame(path: str | Path) -> Iterator[None]:
    """Turn whatever is raised into a sentence that names the file."""
    try:
        yield
    except Exception as error:  # PIL raises many kinds; whatever it is, this file is the cause
        raise InputError(f"cannot read the image {path}: {error}; mend or remove it") from error


def read_image(path: str | Path, *, in_chans: int, size: tuple[int, int]) -> Tensor:
    """Decode one file, upright, in grey (1 channel) or colour (3), fitted to ``size``.

    size: (height, width) in pixels. Returns uint8 ``(in_chans, height, width)``.
    """
    with _blame(path), Image.open(path) as image:
        side = 2 * max(size)
        image.draft("RGB", (side, side))  # JPEG only: decode no larger than needed
        return _fit(_plain(image, in_chans), size).contiguous()


def read_crop(
    path: str | Path, *, in_chans: int, size: tuple[int, int], choose: Callable[[int, int], Box]
) -> Tensor:
    """Decode one file, cut a box out of it, and resize the box to ``size``.

    choose: from the upright image's height and width to the box. Returns uint8
    ``(in_chans, height, width)``, antialiased bilinear.
    """
    with _blame(path):
        image = Image.open(path)
    with image:
        with _blame(path):
            full = image.size[::-1] if _is_turned(image) else image.size
        top, left, height, width = choose(full[1], full[0])
        with _blame(path):
            # JPEG only: a box of many pixels needs no decoding at the full resolution
            surplus = max(1, min(height // (2 * size[0]), width // (2 * size[1])))
            image.draft("RGB", (image.width // surplus, image.height // surplus))
            plain = _plain(image, in_chans)
            x, y = plain.width / full[0], plain.height / full[1]  # 1, or less after draft
            left, top = round(left * x), round(top * y)
            box = left, top, left + round(width * x), top + round(height * y)
            return _resize(plain.crop(box), size, "bilinear").contiguous()


def convert_channels(x: Tensor, in_chans: int) -> Tensor:
    """Grey to colour by repetition, colour to grey by luma: ``(B, C, h, w)`` of the same dtype."""
    if x.shape[1] == in_chans:
        return x
    if x.shape[1] == 1:
        return x.expand(-1, in_chans, -1, -1)
    weights = torch.tensor(LUMA, device=x.device).view(1, 3, 1, 1)
    grey = (x * weights).sum(dim=1, keepdim=True)
    return grey.round().to(x.dtype)


def per_channel(name: str, values: list[float], in_chans: int) -> tuple[float, ...]:
    """Statistics for ``in_chans`` channels: grey repeated, colour weighted to grey."""
    if len(values) == in_chans:
        return tuple(values)
    if len(values) == 1:
        return tuple(values) * in_chans
    if len(values) == 3 and in_chans == 1:  # exact for the mean, an approximation for std
        return (sum(weight * value for weight, value in zip(LUMA, values, strict=True)),)
    raise InputError(f"{name} {values} has {len(values)} numbers for {in_chans} channels")


def check_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Refuse means and deviations that pixels cannot be normalised with."""
    if not all(map(math.isfinite, mean)):
        raise InputError(f"mean {list(mean)} must be numbers; change --data.mean")
    if not all(0 < value < math.inf for value in std):
        raise InputError(f"std {list(std)} must be positive in every channel")


@dataclass(frozen=True)
class Preprocess:
    """From uint8 pixels to what the model was trained on; the same for training and prediction.

    in_chans: channels of the model; source_size: (height, width) at which files are decoded;
    img_size: (height, width) of the model's input; mean, std: per channel, of pixels in [0, 1]
    after inversion; invert: whether pixel values p become 1 - p.
    """

    in_chans: int
    source_size: tuple[int, int]
    img_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    invert: bool = False

    def read(self, path: str | Path) -> Tensor:
        """Decode one file: uint8 ``(in_chans, height, width)`` of source_size."""
        channels = 1 if self.in_chans == 1 else 3
        return read_image(path, in_chans=channels, size=self.source_size)

    def __call__(self, x: Tensor) -> Tensor:
        """Batch uint8 ``(B, C, h, w)`` -> normalised float32 ``(B, in_chans, H, W)``."""
        x = convert_channels(x, self.in_chans).float()  # a copy of its own, changed in place
        if tuple(x.shape[-2:]) != self.img_size:
            x = F.interpolate(x, self.img_size, mode="bilinear", antialias=True)
        scale, shift = _affine(self.mean, self.std, self.invert, x.device)
        return x.mul_(scale).add_(shift)


@cache
def _affine(
    means: tuple[float, ...], stds: tuple[float, ...], invert: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Inversion and normalisation of 0..255 as one multiplication and one addition.

    Kept: to make a tensor from numbers waits for the device.
    """
    mean = torch.tensor(means, device=device).view(1, -1, 1, 1)
    std = torch.tensor(stds, device=device).view(1, -1, 1, 1)
    if invert:
        return -1 / (255 * std), (1 - mean) / std
    return 1 / (255 * std), -mean / std
