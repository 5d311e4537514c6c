"""Batched augmentations that draw per image, on any device.

images (B, C, H, W), draws (B, k) in [0, 1) -> images (B, C, H, W)

Each is a pure function of the images and their draws: row i of the draws changes image i alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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
