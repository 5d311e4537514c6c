"""Images to patches and back.

images (B, C, H, W) <-> patches (B, N, C*P*P)

A patch is flattened in the order (C, P, P), so ``F.linear(patchify(x, P), w.flatten(1))`` equals
``F.conv2d(x, w, stride=P)`` and published convolution filters apply to flattened patches.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vitlit.errors import InputError

Grid = tuple[int, int]  # (rows, cols) of patches


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """A size given as one number or two, as (height, width); raises InputError for more."""
    if isinstance(size, int):
        return size, size
    sides: list[Any] = [size] if isinstance(size, str | float) else list(size)
    if len(sides) != 2 or not all(hasattr(side, "__index__") for side in sides):
        given = sides[0] if len(sides) == 1 else sides
        raise InputError(
            f"size {given!r} is not one number or two; give whole ones, height and width",
            argument="img_size",
        )
    return sides[0], sides[1]


def grid_size(img_size: int | Sequence[int], patch_size: int) -> tuple[int, int]:
    """Number of patches (rows, columns) in an image of ``img_size`` pixels.

    Raises InputError if patch_size does not divide the image.
    """
    height, width = pair(img_size)
    if not hasattr(patch_size, "__index__"):  # text or a fraction
        raise InputError(
            f"patch_size {patch_size!r} is not a whole number; give one", argument="patch_size"
        )
    if patch_size < 1:
        raise InputError(
            f"patch_size {patch_size} is not positive; give 1 or more", argument="patch_size"
        )
    if height < 1 or width < 1 or height % patch_size or width % patch_size:
        raise InputError(
            f"patch_size {patch_size} does not divide the image size {height}x{width}; "
            f"change patch_size{_such_as(height, width, patch_size)}, or pass another img_size",
            argument=("patch_size", "img_size"),
        )
    return height // patch_size, width // patch_size


def _such_as(height: int, width: int, patch_size: int) -> str:
    """The nearest patch size that cuts an image into several patches; none for a prime."""
    common = math.gcd(height, width)
    fitting = [size for size in range(2, common) if common % size == 0]
    nearest = min(fitting, key=lambda size: abs(math.log(size / patch_size)), default=None)
    return f", such as to {nearest}" if nearest else ""


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into non-overlapping square patches, row by row.

    images: ``(..., C, H, W)``, a batch or a single image, any dtype.
    Returns ``(..., N, C*P*P)`` with ``N = (H/P) * (W/P)``.
    As a transform for one image: ``functools.partial(patchify, patch_size=4)``.
    """
    if images.ndim < 3:
        raise InputError(f"patchify needs (..., C, H, W), got shape {tuple(images.shape)}")
    *lead, channels, height, width = images.shape
    rows, cols = grid_size((height, width), patch_size)
    x = images.reshape(*lead, channels, rows, patch_size, cols, patch_size)
    # from (..., C, rows, P, cols, P); by movedim, since permute cannot leave leading axes alone
    x = x.movedim((-4, -2), (-5, -4))  # (..., rows, cols, C, P, P)
    return x.reshape(*lead, rows * cols, channels * patch_size * patch_size)


def unpatchify(patches: Tensor, patch_size: int, img_size: int | Sequence[int]) -> Tensor:
    """Put patches back together: the inverse of :func:`patchify`.

    patches: ``(..., N, C*P*P)``; img_size: pixels, one number or (height, width).
    Returns ``(..., C, H, W)``. Raises InputError if the patches do not tile such an image.
    """
    *lead, count, length = patches.shape
    rows, cols = grid_size(img_size, patch_size)
    if count != rows * cols or length % (patch_size * patch_size):
        raise InputError(
            f"patches of shape {tuple(patches.shape)} do not tile {rows * patch_size}x"
            f"{cols * patch_size} pixels with patch_size {patch_size}"
        )
    channels = length // (patch_size * patch_size)
    x = patches.reshape(*lead, rows, cols, channels, patch_size, patch_size)
    x = x.movedim((-5, -4), (-4, -2))  # (..., C, rows, P, cols, P)
    return x.reshape(*lead, channels, rows * patch_size, cols * patch_size)
