"""Image files to tensors, and tensors to what a model takes.

file -> uint8 (C, h, w) -> batch uint8 (B, C, h, w) -> float (B, C, H, W)
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.errors import InputError
from vitlit.images.image_io import read_image

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights that turn RGB to grey


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
