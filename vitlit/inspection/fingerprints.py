"""Fingerprints of images: a digest of their pixels, a perceptual hash, and a thumbnail.

uint8 (B, C, h, w) -> digests, hashes int64 (B,), thumbnails uint8 (B, C, 16, 16), sums (C,)

The perceptual hash has 64 bits (pHash): grey, 32 x 32 pixels, the 64 lowest frequencies of their
cosine transform; a bit tells whether a coefficient is above the median. Images that were saved
again, scaled or slightly edited differ in a few bits, others in about 32.
"""

import math
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HASH_SIDE, FREQUENCIES = 32, 8  # pixels that are transformed, coefficients kept in each direction
THUMBNAIL = 16  # pixels
DIGEST_BYTES = 16
FLAT = 0.25  # standard deviation, of bytes, below which an image has one colour


class Fingerprints(NamedTuple):
    """What n images are recognised by, and what their mean and deviation follow from.

    digests: of the pixels; hashes: int64 ``(n,)``; thumbnails: uint8 ``(n, C, 16, 16)``; sums,
    squares: float64 ``(n, C)``, the mean of the values in [0, 1] and of their squares.
    """

    digests: list[bytes]
    hashes: Tensor
    thumbnails: Tensor
    sums: Tensor
    squares: Tensor


def fingerprints(images: Tensor) -> Fingerprints:
    """Those of a batch uint8 ``(B, C, h, w)``."""
    values = images.float()
    small = _resized(values, HASH_SIDE)
    thumbnails = F.avg_pool2d(small, HASH_SIDE // THUMBNAIL)
    flat = values.flatten(2) / 255
    return Fingerprints(
        [blake2b(row.tobytes(), digest_size=DIGEST_BYTES).digest() for row in images.numpy()],
        perceptual_hash(small.mean(dim=1)),
        thumbnails.round().to(torch.uint8),
        flat.mean(dim=2).double(),
        flat.square().mean(dim=2).double(),
    )


def joined(parts: Sequence[Fingerprints], in_chans: int) -> Fingerprints:
    """Those of several batches as one. in_chans: their channels, where there is no batch."""
    if not parts:
        return fingerprints(torch.empty(0, in_chans, HASH_SIDE, HASH_SIDE, dtype=torch.uint8))
    digests, *columns = zip(*parts, strict=True)
    flat = [one for part in digests for one in part]
    return Fingerprints(flat, *map(torch.cat, columns))


def _resized(values: Tensor, side: int) -> Tensor:
    if tuple(values.shape[-2:]) == (side, side):
        return values
    return F.interpolate(values, (side, side), mode="bilinear", antialias=True)


@cache
def _cosines() -> Tensor:
    """The lowest frequencies of the cosine transform (DCT-II): ``(8, 32)``."""
    places = (torch.arange(HASH_SIDE) + 0.5) * (math.pi / HASH_SIDE)
    return torch.cos(torch.arange(FREQUENCIES)[:, None] * places)


def perceptual_hash(grey: Tensor) -> Tensor:
    """64 bits of each image, float ``(B, 32, 32)``: int64 ``(B,)``."""
    low = (_cosines() @ grey @ _cosines().T).flatten(1)  # (B, 64)
    low[:, 0] = 0  # the mean: brightness says nothing about what is shown
    bits = low > low[:, 1:].median(dim=1, keepdim=True).values
    # the sum of different powers of two sets one bit each; the highest one is the sign
    return (bits.long() << torch.arange(64)).sum(dim=1)


def centred(thumbnails: Tensor, side: int = THUMBNAIL) -> Tensor:
    """Thumbnails as vectors of mean 0 and length 1: float ``(n, C*side*side)``; 0 if flat.

    The product of two of them is their correlation.
    """
    # in place: of a large set this is the largest array in memory
    values = F.avg_pool2d(thumbnails.float(), THUMBNAIL // side).flatten(1)
    values -= values.mean(dim=1, keepdim=True)
    length = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    is_flat = length < FLAT * values.shape[1] ** 0.5
    values /= torch.where(is_flat, torch.inf, length)
    return values
