"""Batched augmentations that draw per image, on any device.

images (B, C, H, W), draws (B, k) in [0, 1) -> images (B, C, H, W)

Each is a pure function of the images and their draws: row i of the draws changes image i alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BOX_TRIES = (
    10  # boxes that a resized crop or an erasing draws before it gives up, as in torchvision
)
CROP_DRAWS, FLIP_DRAWS, ROTATION_DRAWS = 2, 1, 1
RESIZED_CROP_DRAWS = 2 * BOX_TRIES + 2
ERASING_DRAWS = 1 + 2 * BOX_TRIES + 2


def random_crop(images: Tensor, draws: Tensor, *, padding: int) -> Tensor:
    """Pad with black on all sides and cut the original size anywhere.

    draws: ``(B, 2)``, for the vertical and the horizontal offset; each of the ``2*padding + 1``
    offsets is equally likely.
    """
    batch, channels, height, width = images.shape
    offsets = (draws * (2 * padding + 1)).long().to(images.device, non_blocking=True)
    padded = F.pad(images, (padding,) * 4)
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1)
    rows = (
        planes * padded.shape[2] + offsets[:, :1, None] + torch.arange(height, device=images.device)
    )  # (B, C, H), counted through the whole batch
    starts = rows * padded.shape[3] + offsets[:, 1:, None]
    # every run of W pixels, one beginning at each pixel: a row is copied as a piece
    runs = padded.flatten().as_strided((padded.numel() - width + 1, width), (1, 1))
    return runs.index_select(0, starts.view(-1)).view(images.shape)


def random_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror left and right with probability one half; draws: ``(B, 1)``."""
    width = images.shape[3]
    mirrored = (draws < 0.5).to(images.device, non_blocking=True)  # (B, 1)
    cols = torch.arange(width, device=images.device)
    source = torch.where(mirrored, width - 1 - cols, cols)  # (B, W)
    return images.gather(3, source[:, None, None].expand(images.shape))


def random_rotation(images: Tensor, draws: Tensor, *, degrees: float) -> Tensor:
    """Turn about the centre by up to ``degrees`` either way, bilinear, black outside.

    images: uint8; draws: ``(B, 1)``, for the angle, uniform.
    """
    height, width = images.shape[2:]
    angle = torch.deg2rad((2 * draws - 1) * degrees)
    turn = torch.cat([angle.cos(), angle.sin()], dim=1).to(images.device, non_blocking=True)
    cos, sin = turn.view(-1, 2, 1, 1).unbind(1)  # (B, 1, 1)
    x = torch.arange(width, device=images.device) - (width - 1) / 2  # from the centre
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    # affine_grid would multiply matrices, where autocast and TF32 round the positions; the units
    # are those of grid_sample, half the image's sides
    grid = torch.stack([(x * cos - y * sin) * (2 / width), (x * sin + y * cos) * (2 / height)], 3)
    turned = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return turned.round_().to(images.dtype)


def _first_that_fits(tried: Tensor, fits: Tensor) -> Tensor:
    """The first column of ``tried`` where ``fits``, both ``(B, tries)``: ``(B, 1)``."""
    return tried.gather(1, fits.byte().argmax(dim=1, keepdim=True))


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
    tries = draws[:, : 2 * BOX_TRIES].double().view(-1, BOX_TRIES, 2)
    area = full_h * full_w * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = (low + (high - low) * tries[..., 1]).exp()
    tried_h = (area / shape).sqrt().round().long()  # (B, 10)
    tried_w = (area * shape).sqrt().round().long()
    fits = (tried_w > 0) & (tried_w <= full_w) & (tried_h > 0) & (tried_h <= full_h)
    central = full_w / full_h
    last_h = torch.where(central < ratio[0], (full_w / ratio[0]).round().long(), full_h)
    last_w = torch.where(central > ratio[1], (full_h * ratio[1]).round().long(), full_w)
    last_h, last_w = last_h.clamp(min=1), last_w.clamp(min=1)
    found = fits.any(dim=1, keepdim=True)
    box_h = torch.where(found, _first_that_fits(tried_h, fits), last_h)  # (B, 1)
    box_w = torch.where(found, _first_that_fits(tried_w, fits), last_w)
    place = draws[:, 2 * BOX_TRIES :].double()
    top = torch.where(found, (place[:, :1] * (full_h - box_h + 1)).long(), (full_h - box_h) // 2)
    left = torch.where(found, (place[:, 1:] * (full_w - box_w + 1)).long(), (full_w - box_w) // 2)
    return torch.cat([top, left, box_h, box_w], dim=1)


def random_resized_crop(
    images: Tensor,
    draws: Tensor,
    *,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """Cut the boxes of :func:`resized_crop_boxes` and resize them to ``size`` (height, width).

    images: uint8 ``(B, C, h, w)``. Antialiased bilinear resampling is linear in rows and in
    columns, so two matrix products do it; the result is rounded once, and so within one grey level
    of torchvision's. Returns uint8 ``(B, C, H, W)``.
    """
    height, width = images.shape[2:]
    boxes = resized_crop_boxes(draws, height=height, width=width, scale=scale, ratio=ratio)
    top, left, box_h, box_w = boxes.to(images.device, non_blocking=True).float().unbind(1)
    rows = _resampling(top, box_h, full=height, size=size[0])  # (B, H, h)
    cols = _resampling(left, box_w, full=width, size=size[1])  # (B, W, w)
    resized = rows[:, None] @ images.float() @ cols[:, None].mT  # (B, C, H, W)
    return resized.round_().to(images.dtype)


def _resampling(start: Tensor, length: Tensor, *, full: int, size: int) -> Tensor:
    """Weights that turn a line of ``full`` pixels into ``size`` of a box: ``(B, size, full)``.

    start, length: of the box in pixels, ``(B,)``. A triangle about the centre of each new pixel,
    as wide as a new pixel or an old one, whichever is wider; rows sum to 1.
    """
    pixel = torch.arange(full, device=start.device)
    start, stop = start[:, None, None], (start + length)[:, None, None]  # (B, 1, 1)
    step = (stop - start) / size
    centre = start + step * (torch.arange(size, device=start.device)[:, None] + 0.5)
    weights = (1 - (pixel + 0.5 - centre).abs() / step.clamp(min=1)).clamp(min=0)
    weights = torch.where((pixel >= start) & (pixel < stop), weights, 0.0)
    return weights / weights.sum(dim=2, keepdim=True)


def random_erasing(
    images: Tensor,
    draws: Tensor,
    *,
    probability: float,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Tensor:
    """Set a rectangle to 0, the mean of normalised images (Zhong et al., 2020), as torchvision.

    draws: ``(B, 23)``: whether, ten tries of (area, shape), vertical and horizontal position;
    scale: shares of the area, uniform; ratio: height to width, uniform in its logarithm. If no try
    is smaller than the image, nothing is erased.
    """
    height, width = images.shape[2:]
    tries = draws[:, 1 : 2 * BOX_TRIES + 1].double().view(-1, BOX_TRIES, 2)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = (low + (high - low) * tries[..., 1]).exp()
    tried_h, tried_w = (area * shape).sqrt().round(), (area / shape).sqrt().round()  # (B, 10)
    fits = (tried_h < height) & (tried_w < width)
    happens = fits.any(dim=1, keepdim=True) & (draws[:, :1] < probability)
    box_h, box_w = _first_that_fits(tried_h, fits), _first_that_fits(tried_w, fits)  # (B, 1)
    box_h = torch.where(happens, box_h, 0)
    place = draws[:, -2:].double()
    top = (place[:, :1] * (height - box_h + 1)).floor()
    left = (place[:, 1:] * (width - box_w + 1)).floor()
    box = torch.cat([top, top + box_h, left, left + box_w], dim=1).to(
        images.device, non_blocking=True
    )
    rows = torch.arange(height, device=images.device)
    cols = torch.arange(width, device=images.device)
    inside_rows = (rows >= box[:, :1]) & (rows < box[:, 1:2])  # (B, H)
    inside_cols = (cols >= box[:, 2:3]) & (cols < box[:, 3:])  # (B, W)
    inside = inside_rows[:, None, :, None] & inside_cols[:, None, None]  # (B, 1, H, W)
    return images.masked_fill(inside, 0.0)
