"""Geometric augmentations and erasing on whole batches, drawn per image, on any device.

images (B, C, H, W), draws (B, k) in [0, 1) -> images (B, C, H, W)

Each is a pure function of the images and their draws: row i of the draws changes image i alone. It
is made of two: one turns draws into a plan, a few whole numbers in float32 ``(B, k)``, where the
draws are; the other does what the plan says, where the images are.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Boxes that a resized crop or an erasing tries before it gives up, as in torchvision. All are drawn
# for every image, so that no draw depends on whether an earlier one was used.
BOX_TRIES = 10
# Columns of draws per image. Another number changes the augmentation of every seed.
CROP_DRAWS, FLIP_DRAWS, ROTATION_DRAWS = 2, 1, 1
RESIZED_CROP_DRAWS = 2 * BOX_TRIES + 2
ERASING_DRAWS = 1 + 2 * BOX_TRIES + 2


def random_crop(images: Tensor, draws: Tensor, *, padding: int) -> Tensor:
    """Pad with black on all sides and cut out a random window of the original size.

    draws: ``(B, 2)`` for the vertical and the horizontal offset; each of the ``2*padding + 1``
    offsets is equally likely.
    """
    return crop_at(images, _sent(crop_plan(draws, padding), images), padding)


def crop_plan(draws: Tensor, padding: int) -> Tensor:
    """Vertical and horizontal offsets ``(B, 2)`` from 0 to ``2*padding``."""
    return (draws * (2 * padding + 1)).floor()


def crop_at(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """The windows at ``offsets`` ``(B, 2)`` of images padded with black, as large as they were."""
    # One index_select of whole rows is faster than gathering single pixels: three times in uint8.
    batch, channels, height, width = images.shape
    offsets = offsets.long()
    padded = F.pad(images, (padding,) * 4)
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1)
    rows = (
        planes * padded.shape[2] + offsets[:, :1, None] + torch.arange(height, device=images.device)
    )  # (B, C, H), numbered through the whole batch
    starts = rows * padded.shape[3] + offsets[:, 1:, None]
    # a view of every run of W pixels, one starting at each pixel: each row is copied as one piece
    runs = padded.flatten().as_strided((padded.numel() - width + 1, width), (1, 1))
    return runs.index_select(0, starts.view(-1)).view(images.shape)


def random_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror images horizontally with probability one half; draws: ``(B, 1)``."""
    return mirror(images, _sent(flip_plan(draws), images))


def flip_plan(draws: Tensor) -> Tensor:
    """1 for the images to be mirrored, else 0: ``(B, 1)``."""
    return (draws < 0.5).float()


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images whose row of ``mirrored`` ``(B, 1)`` is not 0."""
    width = images.shape[3]
    cols = torch.arange(width, device=images.device)
    source = torch.where(mirrored > 0, width - 1 - cols, cols)  # (B, W)
    return images.gather(3, source[:, None, None].expand(images.shape))


def random_rotation(images: Tensor, draws: Tensor, *, degrees: float) -> Tensor:
    """Rotate about the centre by up to ``degrees`` either way, bilinear, black outside.

    images: uint8; draws: ``(B, 1)`` for the angle, which is uniform.
    """
    return rotate_by(images, _sent(rotation_plan(draws, degrees), images))


def rotation_plan(draws: Tensor, degrees: float) -> Tensor:
    """Cosine and sine of each angle: ``(B, 2)``."""
    angle = torch.deg2rad((2 * draws - 1) * degrees)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def rotate_by(images: Tensor, turn: Tensor) -> Tensor:
    """Rotate uint8 images by the angles with the cosines and sines ``turn`` ``(B, 2)``."""
    height, width = images.shape[2:]
    cos, sin = turn.view(-1, 2, 1, 1).unbind(1)  # (B, 1, 1)
    x = torch.arange(width, device=images.device) - (width - 1) / 2  # from the centre
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    # Not affine_grid: it multiplies matrices, and autocast or TF32 would round the positions. The
    # units are those of grid_sample: half of the image's height or width.
    grid = torch.stack([(x * cos - y * sin) * (2 / width), (x * sin + y * cos) * (2 / height)], 3)
    rotated = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return rotated.round_().to(images.dtype)


def _sent(plan: Tensor, images: Tensor) -> Tensor:
    """The plan on the images' device, without waiting for it."""
    return plan.to(images.device, non_blocking=True)


def _first_that_fits(tried: Tensor, fits: Tensor) -> Tensor:
    """The first column of ``tried`` where ``fits``, both ``(B, tries)``: ``(B, 1)``.

    Where none fits it is the first of all, which callers must replace.
    """
    # argmax returns the first of equal values, and takes no bool tensors
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

    draws: ``(B, 22)``: ten tries of (area, ratio), then the vertical and the horizontal position;
    height, width: pixels, one number or ``(B,)``; scale: range of the share of the area, uniform;
    ratio: range of width / height, uniform in its logarithm. The first try that fits is used; if
    none fits, the largest central box whose ratio is allowed. Returns int64 ``(B, 4)``, rows of
    top, left, height, width in pixels.
    """
    full_h = torch.as_tensor(height, device=draws.device).expand(len(draws))[:, None]
    full_w = torch.as_tensor(width, device=draws.device).expand(len(draws))[:, None]
    # float64, like the Python numbers of torchvision: float32 rounds some sides to another pixel
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
    last_h, last_w = last_h.clamp(min=1), last_w.clamp(min=1)  # a thin image may round to 0
    found = fits.any(dim=1, keepdim=True)
    box_h = torch.where(found, _first_that_fits(tried_h, fits), last_h)  # (B, 1)
    box_w = torch.where(found, _first_that_fits(tried_w, fits), last_w)
    place = draws[:, 2 * BOX_TRIES :].double()
    top = torch.where(found, (place[:, :1] * (full_h - box_h + 1)).long(), (full_h - box_h) // 2)
    left = torch.where(found, (place[:, 1:] * (full_w - box_w + 1)).long(), (full_w - box_w) // 2)
    return torch.cat([top, left, box_h, box_w], dim=1)


def resized_crop_box(
    draws: Tensor,
    *,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """The box of one image, as a row of :func:`resized_crop_boxes`; draws: ``(22,)``.

    In Python's numbers: for a single image it takes a hundredth of the time.
    """
    numbers = draws.tolist()
    low, high = math.log(ratio[0]), math.log(ratio[1])
    tries = zip(numbers[: 2 * BOX_TRIES : 2], numbers[1 : 2 * BOX_TRIES : 2], strict=True)
    for drawn_area, drawn_shape in tries:
        area = height * width * (scale[0] + (scale[1] - scale[0]) * drawn_area)
        shape = math.exp(low + (high - low) * drawn_shape)
        rows, cols = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < rows <= height and 0 < cols <= width:
            down, across = numbers[2 * BOX_TRIES :]
            return int(down * (height - rows + 1)), int(across * (width - cols + 1)), rows, cols
    box = resized_crop_boxes(draws[None], height=height, width=width, scale=scale, ratio=ratio)
    top, left, rows, cols = box[0].tolist()
    return top, left, rows, cols


def random_resized_crop(
    images: Tensor,
    draws: Tensor,
    *,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """Cut out the boxes of :func:`resized_crop_boxes` and resize them to ``size`` (height, width).

    images: uint8 ``(B, C, h, w)``; draws: ``(B, 22)``. Returns uint8 ``(B, C, H, W)``, antialiased
    bilinear, within one grey level of torchvision's.
    """
    height, width = images.shape[2:]
    boxes = resized_crop_boxes(draws, height=height, width=width, scale=scale, ratio=ratio)
    return resize_boxes(images, _sent(boxes.float(), images), size)


def resize_boxes(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut out boxes ``(B, 4)``, rows of top, left, height, width, and resize them to ``size``."""
    height, width = images.shape[2:]
    top, left, box_h, box_w = boxes.unbind(1)
    rows = _resampling(top, box_h, full=height, size=size[0])  # (B, H, h)
    cols = _resampling(left, box_w, full=width, size=size[1])  # (B, W, w)
    # Resampling is linear along each axis, so two matrix products resize every image from its own
    # box. The result is rounded once; torchvision's uint8 kernel rounds after each axis.
    resized = rows[:, None] @ images.float() @ cols[:, None].mT  # (B, C, H, W)
    return resized.round_().to(images.dtype)


def _resampling(start: Tensor, length: Tensor, *, full: int, size: int) -> Tensor:
    """Matrices that resample a box of a line of ``full`` pixels to ``size``: ``(B, size, full)``.

    start, length: of the box in pixels, ``(B,)``. Each row is a triangle about the centre of a new
    pixel, as wide as two new or two old pixels, whichever is wider; rows sum to 1.
    """
    pixel = torch.arange(full, device=start.device)
    start, stop = start[:, None, None], (start + length)[:, None, None]  # (B, 1, 1)
    step = (stop - start) / size
    centre = start + step * (torch.arange(size, device=start.device)[:, None] + 0.5)
    weights = (1 - (pixel + 0.5 - centre).abs() / step.clamp(min=1)).clamp(min=0)
    # pixels outside the box have no weight, as if the box had been cut out first
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

    draws: ``(B, 23)``: whether, ten tries of (area, ratio), vertical and horizontal position;
    scale: range of the share of the area, uniform; ratio: range of height / width, uniform in its
    logarithm. If no try is smaller than the image, nothing is erased.
    """
    size = (images.shape[2], images.shape[3])
    plan = erasing_plan(draws, size, probability=probability, scale=scale, ratio=ratio)
    return erase(images, _sent(plan, images))


def erasing_plan(
    draws: Tensor,
    size: tuple[int, int],
    *,
    probability: float,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Tensor:
    """Rectangles ``(B, 4)`` in images of ``size`` (height, width): top, bottom, left, right.

    They have no rows where nothing is erased; see :func:`random_erasing`.
    """
    height, width = size
    tries = draws[:, 1 : 2 * BOX_TRIES + 1].double().view(-1, BOX_TRIES, 2)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = (low + (high - low) * tries[..., 1]).exp()
    tried_h, tried_w = (area * shape).sqrt().round(), (area / shape).sqrt().round()  # (B, 10)
    fits = (tried_h < height) & (tried_w < width)
    happens = fits.any(dim=1, keepdim=True) & (draws[:, :1] < probability)
    box_h, box_w = _first_that_fits(tried_h, fits), _first_that_fits(tried_w, fits)  # (B, 1)
    box_h = torch.where(happens, box_h, 0)  # no rows: an empty box erases nothing
    place = draws[:, -2:].double()
    top = (place[:, :1] * (height - box_h + 1)).floor()
    left = (place[:, 1:] * (width - box_w + 1)).floor()
    return torch.cat([top, top + box_h, left, left + box_w], dim=1).float()


def erase(images: Tensor, box: Tensor) -> Tensor:
    """Set the rectangles ``box`` ``(B, 4)`` of :func:`erasing_plan` to 0."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device)
    cols = torch.arange(width, device=images.device)
    inside_rows = (rows >= box[:, :1]) & (rows < box[:, 1:2])  # (B, H)
    inside_cols = (cols >= box[:, 2:3]) & (cols < box[:, 3:])  # (B, W)
    inside = inside_rows[:, None, :, None] & inside_cols[:, None, None]  # (B, 1, H, W)
    # one mask for the batch: slices would need a loop over the images
    return images.masked_fill(inside, 0.0)
