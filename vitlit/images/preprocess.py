"""Image files to tensors, and tensors to what a model takes.

file -> uint8 (C, h, w) -> batch uint8 (B, C, h, w) -> float (B, C, H, W)
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vitlit.errors import InputError
from vitlit.images.image_io import open_image, to_plain_image, upright_size

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
UNREAD_EXTENSIONS: tuple[str, ...] = (
    ".avif",
    ".eps",
    ".exr",
    ".heic",
    ".heif",
    ".ico",
    ".jfif",
    ".jp2",
)
UNREAD_EXTENSIONS += (
    ".jxl",
    ".psd",
    ".svg",
    ".tga",
    ".arw",
    ".cr2",
    ".cr3",
    ".dng",
    ".nef",
    ".raw",
)
Box = tuple[int, int, int, int]  # top, left, height, width in pixels
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights that turn RGB to grey


def is_image_name(name: str) -> bool:
    """Whether a file name looks like an image, of any kind; hidden files do not."""
    return name.lower().endswith(EXTENSIONS + UNREAD_EXTENSIONS) and not name.startswith(".")


def is_hidden(name: str) -> bool:
    """Whether a folder is none of the user's: hidden, or left by a Mac or a network drive."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def is_loop(folder: str, around: tuple[str, ...]) -> bool:
    """Whether a link leads back to one of the folders ``around`` it (real paths), or above."""
    real = os.path.realpath(folder).rstrip(os.sep) + os.sep
    return any((other + os.sep).startswith(real) for other in around)


def list_images(folder: str | Path, unread: list[str] | None = None) -> list[str]:
    """Image files below a folder, sorted, hidden files and folders left out.

    Links to folders are followed, but for those that lead back. Images of the kinds ``UNREAD``
    are not among them; they are added to the list ``unread``.
    """
    found = list(_walk(str(folder), (os.path.realpath(folder),)))
    if unread is not None:
        unread += [path for path in found if path.lower().endswith(UNREAD_EXTENSIONS)]
    return [path for path in found if path.lower().endswith(EXTENSIONS)]


def _walk(folder: str, around: tuple[str, ...]) -> Iterator[str]:
    """Files of a folder, then those below it; around: its real path, after those above it."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:  # images that are left out in silence would be missed later
        raise InputError(f"cannot list the folder {folder}: {error.strerror}; mend it") from error
    is_folder = [_is_folder(entry) for entry in entries]
    for entry, folded in zip(entries, is_folder, strict=True):
        if not folded and is_image_name(entry.name):
            yield f"{folder}{os.sep}{entry.name}"
    for entry, folded in zip(entries, is_folder, strict=True):
        if folded and not is_hidden(entry.name):
            path = f"{folder}{os.sep}{entry.name}"
            if not (entry.is_symlink() and is_loop(path, around)):
                yield from _walk(path, (*around, os.path.realpath(path)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: reading it will say so
        return False


def find_images(
    paths: Iterable[str], unread: list[str] | None = None, *, argument: str = "images"
) -> list[str]:
    """Image files named directly, or found below the folders among the paths.

    unread: see list_images; argument: which one the paths were given to.
    """

    def expand(path: Path) -> Iterator[str]:
        if path.is_dir():
            found = list_images(path, unread)
            if not found:
                raise InputError(f"no images in {path}; known endings: {' '.join(EXTENSIONS)}")
            yield from found
        elif path.is_file():
            yield str(path)
        else:
            raise InputError(f"no such file or folder: {path}; check {argument}", argument=argument)

    return [file for path in paths for file in expand(Path(path).expanduser())]


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


def _fit_size(image: Image.Image, size: tuple[int, int]) -> Tensor:
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


def read_image(path: str | Path, *, in_chans: int, size: tuple[int, int]) -> Tensor:
    """Decode one file, upright, in grey (1 channel) or colour (3), fitted to ``size``.

    size: (height, width) in pixels. Returns uint8 ``(in_chans, height, width)``.
    """
    with open_image(path) as image:
        side = 2 * max(size)
        image.draft("RGB", (side, side))  # JPEG only: decode no larger than needed
        return _fit_size(to_plain_image(image, in_chans), size).contiguous()


def read_crop(
    path: str | Path, *, in_chans: int, size: tuple[int, int], choose: Callable[[int, int], Box]
) -> Tensor:
    """Decode one file, cut a box out of it, and resize the box to ``size``.

    choose: from the upright image's height and width to the box. Returns uint8
    ``(in_chans, height, width)``, antialiased bilinear.
    """
    with open_image(path) as image:
        full = upright_size(image)
        top, left, height, width = choose(*full)
        # JPEG only: a box of many pixels needs no decoding at the full resolution
        surplus = max(1, min(height // (2 * size[0]), width // (2 * size[1])))
        image.draft("RGB", (image.width // surplus, image.height // surplus))
        whole = to_plain_image(image, in_chans)
        x, y = whole.width / full[1], whole.height / full[0]  # 1, or less after draft
        left, top = round(left * x), round(top * y)
        box = left, top, left + round(width * x), top + round(height * y)
        return _resize(whole.crop(box), size, "bilinear").contiguous()


def match_channels(x: Tensor, in_chans: int) -> Tensor:
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
    raise InputError(
        f"{name} {values} has {len(values)} numbers for {in_chans} channels", argument=name
    )


def check_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Refuse means and deviations that pixels cannot be normalised with."""
    if not all(map(math.isfinite, mean)):
        raise InputError(f"mean {list(mean)} must be numbers; give others", argument="mean")
    if not all(0 < value < math.inf for value in std):
        raise InputError(f"std {list(std)} must be positive in every channel", argument="std")


@dataclass(frozen=True)
class Preprocess:
    """From images to what the model was trained on; the same for training and prediction.

    Called, it takes a batch of images of any one size, grey or colour, as a uint8 tensor
    ``(B, C, h, w)``; ``read`` makes such an image of a file. One of Pillow's becomes such a tensor
    by torchvision's ``pil_to_tensor(image.convert("RGB"))[None]``.

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
        x = match_channels(x, self.in_chans).float()  # a copy of its own, changed in place
        if tuple(x.shape[-2:]) != self.img_size:
            x = F.interpolate(x, self.img_size, mode="bilinear", antialias=True)
        scale, shift = _scale_and_shift(self.mean, self.std, self.invert, x.device)
        return x.mul_(scale).add_(shift)


@cache
def _scale_and_shift(
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
