"""Vertical flips and quarter turns of whole batches, drawn per image; no pixel is resampled.

images (B, C, H, W), draws (B, 1) in [0, 1) -> plan (B, 1) -> images (B, C, H, W)
"""

import torch
from torch import Tensor

VERTICAL_FLIP_DRAWS, QUARTER_TURN_DRAWS = 1, 1  # columns of draws per image


def vertical_flip_plan(draws: Tensor) -> Tensor:
    """1 for the images to be turned upside down, with probability one half, else 0: ``(B, 1)``."""
    return (draws < 0.5).float()


def flip_vertically(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror top and bottom of the images whose row of ``flipped`` ``(B, 1)`` is not 0."""
    height = images.shape[2]
    rows = torch.arange(height, device=images.device)
    source = torch.where(flipped > 0, height - 1 - rows, rows)  # (B, H)
    return images.gather(2, source[:, None, :, None].expand(images.shape))


def quarter_turn_plan(draws: Tensor) -> Tensor:
    """How many quarter turns anticlockwise, 0 to 3, each equally likely: ``(B, 1)``."""
    return (draws * 4).floor()


def turn_quarters(images: Tensor, turns: Tensor) -> Tensor:
    """Turn square images anticlockwise by ``turns`` ``(B, 1)`` quarters."""
    side = images.shape[2]
    row = torch.arange(side, device=images.device)[:, None].expand(side, side).flatten()
    col = torch.arange(side, device=images.device).repeat(side)
    last = side - 1
    # where each pixel comes from, numbered row by row: (4, side * side)
    sources = torch.stack(
        [
            row * side + col,
            col * side + last - row,
            (last - row) * side + last - col,
            (last - col) * side + row,
        ]
    )
    source = sources.index_select(0, turns[:, 0].long())[:, None]  # (B, 1, side * side)
    flat = images.flatten(2)
    return flat.gather(2, source.expand(flat.shape)).view(images.shape)
