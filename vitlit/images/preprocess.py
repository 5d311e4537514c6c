"""Preprocessing, the same for training and prediction: files to tensors to a model's input.

file -> uint8 (C, h, w) -> batch uint8 (B, C, h, w) -> float (B, C, H, W)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.errors import InputError
from vitlit.images.framing import PLAIN_FRAMING, Framing
from vitlit.images.image_io import read_image

MAX_INPUT_PIXELS = 2**26  # 8192x8192; files may have more
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in grey: ITU-R BT.601, as in Pillow


def match_channels(x: Tensor, in_chans: int) -> Tensor:
    """Grey to RGB by repetition, RGB to grey by luma: ``(B, C, h, w)`` of the same dtype."""
    if x.shape[1] == in_chans:
        return x
    if x.shape[1] == 1:
        return x.expand(-1, in_chans, -1, -1)  # a view: callers must copy before they write
    weights = torch.tensor(LUMA, device=x.device).view(1, 3, 1, 1)
    grey = (x * weights).sum(dim=1, keepdim=True)
    return grey.round().to(x.dtype)


def per_channel(name: str, values: list[float], in_chans: int) -> tuple[float, ...]:
    """Means or deviations for ``in_chans`` channels: grey is repeated, RGB weighted to grey.

    Raises InputError for any other number of values, and of channels.
    """
    if in_chans not in (1, 3):
        raise InputError(
            f"in_chans {in_chans} is neither 1 (grey) nor 3 (RGB); images have no other channels",
            argument="in_chans",
        )
    if len(values) == in_chans:
        return tuple(values)
    if len(values) == 1:
        return tuple(values) * in_chans
    # exact for the mean; an upper bound for std, which it reaches if the colours vary together
    if len(values) == 3 and in_chans == 1:
        return (sum(weight * value for weight, value in zip(LUMA, values, strict=True)),)
    raise InputError(
        f"{name} {values} has {len(values)} numbers for {in_chans} channels", argument=name
    )


def check_image_size(size: tuple[int, int]) -> None:
    """Raise InputError for a model's input that is empty, or larger than any memory."""
    if min(size) < 1:
        raise InputError(
            f"img_size {size[0]}x{size[1]} has no pixels; give 1 or more", argument="img_size"
        )
    if size[0] * size[1] > MAX_INPUT_PIXELS:
        raise InputError(
            f"img_size {size[0]}x{size[1]} is more than the maximum of {MAX_INPUT_PIXELS:,} pixels "
            f"for a model's input; give a smaller one; images are resized to it",
            argument="img_size",
        )


def check_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise InputError for a mean that is not finite or a deviation that is not positive."""
    if not all(map(math.isfinite, mean)):
        raise InputError(f"mean {list(mean)} is not finite; give other numbers", argument="mean")
    if not all(0 < value < math.inf for value in std):
        raise InputError(f"std {list(std)} must be positive in every channel", argument="std")


@dataclass(frozen=True)
class Preprocess:
    """Turns images into the input that the model was trained on.

    A call takes a batch of images of one size, grey or RGB, as a uint8 tensor ``(B, C, h, w)``.
    ``read`` makes such an image (without B) of a file; of a Pillow image, torchvision's
    ``pil_to_tensor(image.convert("RGB"))`` does.

    in_chans: channels of the model; source_size: (height, width) at which files are decoded;
    img_size: (height, width) of the model's input; mean, std: per channel, of pixels in [0, 1]
    after inversion; invert: whether pixels p become 1 - p; framing: how files are fitted to
    source_size.
    """

    in_chans: int
    source_size: tuple[int, int]
    img_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    invert: bool = False
    framing: Framing = PLAIN_FRAMING

    def read(self, path: str | Path) -> Tensor:
        """Decode one file: uint8 ``(1 or 3, height, width)`` of source_size, the call's input."""
        channels = 1 if self.in_chans == 1 else 3
        size = self.source_size
        return read_image(path, in_chans=channels, size=size, framing=self.framing)

    def on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The call for images on that device, without state to look up: a compiler can read it."""
        numbers = _scale_and_shift(self.mean, self.std, self.invert, device)
        return partial(self._resized_and_normalised, numbers=numbers)

    def __call__(self, x: Tensor) -> Tensor:
        """Batch uint8 ``(B, C, h, w)`` -> normalised float32 ``(B, in_chans, H, W)``.

        Raises InputError for anything but such a batch of 1 or 3 channels.
        """
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3):
            raise InputError(
                f"the images are {x.dtype} {tuple(x.shape)}; preprocess takes torch.uint8 "
                f"(B, C, h, w) with 1 or 3 channels"
            )
        return self.on(x.device)(x)

    def _resized_and_normalised(self, x: Tensor, *, numbers: tuple[Tensor, Tensor]) -> Tensor:
        x = match_channels(x, self.in_chans).float()  # a copy, so it may be changed in place below
        if tuple(x.shape[-2:]) != self.img_size:
            x = F.interpolate(x, self.img_size, mode="bilinear", antialias=True)
        scale, shift = numbers
        return x.mul_(scale).add_(shift)


@cache
def _scale_and_shift(
    means: tuple[float, ...], stds: tuple[float, ...], invert: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and summand ``(1, C, 1, 1)`` that invert and normalise pixels of 0..255."""
    # Cached, and copied when they are ready: no step waits for a GPU.
    mean = torch.tensor(means).view(1, -1, 1, 1)
    std = torch.tensor(stds).view(1, -1, 1, 1)
    found = (-1 / (255 * std), (1 - mean) / std) if invert else (1 / (255 * std), -mean / std)
    return found[0].to(device, non_blocking=True), found[1].to(device, non_blocking=True)
