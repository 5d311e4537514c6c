"""Batched augmentations that draw per image, on any device.

images (B, C, H, W), draws (B, k) in [0, 1) -> images (B, C, H, W)

Each is a pure function of the images and their draws: row i of the draws changes image i alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TRIES = 10  # boxes that a resized crop draws before it falls back, as in torchvision
RESIZED_CROP_DRAWS = 2 * TRIES + 2


def random_crop(images: Tensor, draws: Tensor, *, padding: int) -> Tensor:
    """Pad with black on all sides and cut the original size anywhere.

    draws: ``(B, 2)``, for the vertical and the horizontal offset; each of the ``2*padding + 1``
    offsets is equally likely.
    """
    batch, channels, height, width = images.shape
    offsets = (draws * (2 * padding + 1)).long()  # (B, 2)
    padded = F.pad(images, (padding,) * 4)
    rows = offsets[:, :1] + torch.arange(height, device=images.device)  # (B, H)
    cols = offsets[:, 1:] + torch.arange(width, device=images.device)  # (B, W)
    index = torch.arange(batch, device=images.device)
    channel = torch.arange(channels, device=images.device)
    return padded[
        index[:, None, None, None],
        channel[None, :, None, None],
        rows[:, None, :, None],
        cols[:, None, None, :],
    ]


def random_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror left and right with probability one half; draws: ``(B, 1)``."""
    return torch.where(draws.view(-1, 1, 1, 1) < 0.5, images.flip(-1), images)


def resized_crop_boxes(
    draws: Tensor,
    *,
    height: int | Tensor,
    width: int | Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """Boxes of random area and shape (Szegedy et al., 2015; torchvision's RandomResizedCrop).

    draws: ``(B, 22)``: ten tries of (area, shape), then the vertical and the horizontal position;
    height, width: pixels, one number or ``(B,)``; scale: shares of the area, uniform; ratio: width
    to height, uniform in its logarithm. Of the tries the first that fits counts; if none does, the
    largest central box with the nearest allowed ratio. Returns int64 ``(B, 4)``, rows of top, left,
    height, width.
    """
    full_h = torch.as_tensor(height, device=draws.device).expand(len(draws))[:, None]
    full_w = torch.as_tensor(width, device=draws.device).expand(len(draws))[:, None]
    tries = draws[:, : 2 * TRIES].double().view(-1, TRIES, 2)
    area = full_h * full_w * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = (low + (high - low) * tries[..., 1]).exp()
    tried_h = (area / shape).sqrt().round().long()  # (B, 10)
    tried_w = (area * shape).sqrt().round().long()
    fits = (tried_w > 0) & (tried_w <= full_w) & (tried_h > 0) & (tried_h <= full_h)
    central = full_w / full_h
    last_h = torch.where(central < ratio[0], (full_w / ratio[0]).round().long(), full_h)
    last_w = torch.where(central > ratio[1], (full_h * ratio[1]).round().long(), full_w)
    first = fits.byte().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1, keepdim=True)
    box_h = torch.where(found, tried_h.gather(1, first), last_h)  # (B, 1)
    box_w = torch.where(found, tried_w.gather(1, first), last_w)
    place = draws[:, 2 * TRIES :].double()
    top = torch.where(found, (place[:, :1] * (full_h - box_h + 1)).long(), (full_h - box_h) // 2)
    left = torch.where(found, (place[:, 1:] * (full_w - box_w + 1)).long(), (full_w - box_w) // 2)
    return torch.cat([top, left, box_h, box_w], dim=1)
