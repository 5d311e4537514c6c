"""Arithmetic that the operations share: bytes held in floats, whatever computes them.

float32 (B, C, H, W) holding 0..255 -> the same
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float64; in float32 on Apple's GPUs, which have no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def luma(values: Tensor) -> Tensor:
    """Whole grey values of float32 ``(B, C, H, W)``: ``(B, 1, H, W)``; torchvision's weights."""
    if values.shape[1] == 1:
        return values
    red, green, blue = values.unbind(1)
    grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    return grey.floor_().unsqueeze(1)


def sample_nearest(values: Tensor, maps: Tensor) -> Tensor:
    """Fetch each pixel from the nearest source pixel, black outside.

    maps: ``(B, 2, 3)``, from pixels from the centre to half images.
    """
    height, width = values.shape[2:]
    x = torch.arange((1 - width) / 2, width / 2, device=values.device).view(1, 1, 1, -1)
    y = torch.arange((1 - height) / 2, height / 2, device=values.device).view(1, 1, -1, 1)
    a, b, c = maps.view(-1, 2, 1, 1, 3).unbind(4)
    grid = (x * a + y * b).add_(c).movedim(1, 3)  # no matmul: TF32 and autocast would round it
    return F.grid_sample(values, grid, mode="nearest", align_corners=False)
