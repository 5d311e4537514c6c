"""Torchvision's augmentation operations on whole batches, with a magnitude for every image.

images uint8 (B, C, H, W) with C 1 or 3, magnitude float32 (B,) -> uint8 (B, C, H, W)

Each is a pure function that does to image i what torchvision.transforms.v2 does to that image alone
with ``magnitude[i]``: nearest neighbour, black outside. Point operations are tables of 256 values,
geometric ones are affine maps; :func:`apply_grouped` merges those of one batch into one pass.
"""

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from vitlit.augment.operation_maths import luma, sample_nearest, wide

Operation = Callable[[Tensor, Tensor], Tensor]


def _to_bytes(values: Tensor) -> Tensor:
    """Clip floats to 0..255, in place, and drop the fraction; going through int16 is faster."""
    return values.clamp_(0, 255).short().to(torch.uint8)


def _blend(values: Tensor, other: Tensor, magnitude: Tensor) -> Tensor:
    """``(1 + magnitude) * values - magnitude * other``: away from other, or towards it."""
    # Torchvision uses add(alpha=...), which rounds once but takes no alpha per image; float64 does
    # the same. Blends of bytes often fall next to a whole number, where a second rounding shows.
    scaled = wide(values * (1 + magnitude))
    return _to_bytes(scaled.add_(wide(other) * -wide(magnitude)).float())


# Point operations: images (B, C, H, W), magnitude (B,) -> uint8 tables (B, C, 256)


def _values(images: Tensor) -> Tensor:
    """Every byte, for every channel: float32 ``(B, C, 256)``, a view of 256 numbers."""
    return torch.arange(256.0, device=images.device).expand(*images.shape[:2], 256)


def _brightness_table(images: Tensor, magnitude: Tensor) -> Tensor:
    """Multiply by ``1 + magnitude``; magnitude in [-1, 1]."""
    return _to_bytes(_values(images) * (1 + magnitude.view(-1, 1, 1)))


def _contrast_table(images: Tensor, magnitude: Tensor) -> Tensor:
    """Away from the image's mean grey by the share ``magnitude``; magnitude in [-1, 1]."""
    # float64 sums of whole numbers are exact at any image size, whatever the order of addition
    mean = wide(luma(images.float())).mean(dim=(1, 2, 3)).float()
    return _blend(_values(images), mean.view(-1, 1, 1), magnitude.view(-1, 1, 1))


def _posterize_table(images: Tensor, magnitude: Tensor) -> Tensor:
    """Keep the ``int(magnitude)`` highest bits; magnitude in [0, 8]."""
    mask = 256 - (1 << (8 - magnitude.int()))  # (B,)
    return (_values(images).int() & mask.view(-1, 1, 1)).to(torch.uint8)


def _solarize_table(images: Tensor, magnitude: Tensor) -> Tensor:
    """Invert the values from ``255 * magnitude`` on; magnitude in [0, 1]."""
    values = _values(images)
    bright = values >= 255 * magnitude.view(-1, 1, 1)
    return torch.where(bright, 255 - values, values).to(torch.uint8)


def _autocontrast_table(images: Tensor, magnitude: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one value stays. The magnitude has no effect."""
    pixels = images.flatten(2)
    low = pixels.amin(dim=2, keepdim=True).float()
    high = pixels.amax(dim=2, keepdim=True).float()
    flat = low == high  # (B, C, 1)
    scale = torch.where(flat, 1.0, (high - low) * (1 / 255))
    return _to_bytes((_values(images) - low.masked_fill(flat, 0)) / scale)


def _equalize_table(images: Tensor, magnitude: Tensor) -> Tensor:
    """Flatten each channel's histogram, in PIL's integers. The magnitude has no effect."""
    pixels = images.flatten(2).long()  # (B, C, H*W)
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, pixels, counts.new_ones(1).expand_as(pixels))
    brightest = counts.gather(2, pixels.amax(dim=2, keepdim=True))
    step = (pixels.shape[2] - brightest) // 255  # (B, C, 1)
    below = counts.cumsum(dim=2) - counts
    table = (below + step // 2) // step.clamp(min=1)
    return torch.where(step == 0, _values(images), table.clamp_(max=255)).to(torch.uint8)


def _invert_table(images: Tensor, magnitude: Tensor) -> Tensor:
    """Replace each value v by ``255 - v``. The magnitude has no effect."""
    return (255 - _values(images)).to(torch.uint8)


def _look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replace each byte by its entry in the tables ``(B, C, 256)``."""
    return tables.gather(2, images.flatten(2).long()).view_as(images)


# Geometric operations: images (B, C, H, W), magnitude (B,) -> float32 maps (B, 2, 3), which take a
# pixel of the result to its source, (x, y, 1) -> (x, y), in pixels from the centre of the image


def _maps(**entries: Tensor) -> Tensor:
    """Identity maps with the named entries replaced, each ``(B,)``: "xy" is what y adds to x."""
    like = next(iter(entries.values()))
    maps = torch.eye(2, 3, device=like.device).repeat(len(like), 1, 1)
    for name, values in entries.items():
        maps[:, "xy".index(name[0]), "xy1".index(name[1])] = values
    return maps


def _shear_x_map(images: Tensor, magnitude: Tensor) -> Tensor:
    """Shift each row by ``magnitude`` of its distance from the upper edge."""
    return _maps(xy=magnitude, x1=magnitude * (images.shape[2] / 2))


def _shear_y_map(images: Tensor, magnitude: Tensor) -> Tensor:
    """Shift each column by ``magnitude`` of its distance from the left edge."""
    return _maps(yx=magnitude, y1=magnitude * (images.shape[3] / 2))


def _translate_x_map(images: Tensor, magnitude: Tensor) -> Tensor:
    """Move to the right by ``int(magnitude)`` pixels."""
    return _maps(x1=-magnitude.trunc())


def _translate_y_map(images: Tensor, magnitude: Tensor) -> Tensor:
    """Move down by ``int(magnitude)`` pixels."""
    return _maps(y1=-magnitude.trunc())


def _rotate_map(images: Tensor, magnitude: Tensor) -> Tensor:
    """Rotate anticlockwise by ``magnitude`` degrees about the centre."""
    angle = wide(magnitude).deg2rad()
    cosine, sine = angle.cos(), angle.sin()
    return _maps(xx=cosine, xy=-sine, yx=sine, yy=cosine)


def _warp(images: Tensor, maps: Tensor) -> Tensor:
    """Fetch each pixel from the nearest source pixel, black outside; maps: ``(B, 2, 3)``."""
    height, width = images.shape[2:]
    half = torch.tensor([width / 2, height / 2]).view(1, 2, 1)
    maps = maps / half.to(images.device, non_blocking=True)
    return _to_bytes(sample_nearest(images.float(), maps))


# The operations: images (B, C, H, W), magnitude (B,) -> (B, C, H, W)


def identity(images: Tensor, magnitude: Tensor) -> Tensor:
    """The images themselves. The magnitude has no effect."""
    return images


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Away from each pixel's grey by the share ``magnitude``, in [-1, 1]; grey images stay."""
    if images.shape[1] == 1:
        return images
    values = images.float()
    return _blend(values, luma(values), magnitude.view(-1, 1, 1, 1))


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Away from a 3x3 blur by the share ``magnitude``, in [-1, 1]; the outer pixels stay.

    The blur weighs the centre 5/13 and its neighbours 1/13.
    """
    if min(images.shape[2:]) <= 2:
        return images
    pixels = images.short()
    rows = (pixels[:, :, :-2] + pixels[:, :, 1:-1]).add_(pixels[:, :, 2:])
    sums = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])  # (B, C, H-2, W-2)
    inner = pixels[:, :, 1:-1, 1:-1]
    blurred = sums.add_(inner, alpha=4).float().mul_(1 / 13).round_()  # never halfway: 13 is odd
    inner = inner.float()
    detail = inner - blurred
    share = magnitude.view(-1, 1, 1, 1)
    # torchvision rounds once. coarse has so few bits that its product with a byte and the sum are
    # exact in float32; only adding the rest rounds.
    coarse = share.mul(2**15).round_() / 2**15
    sharp = inner.addcmul_(detail, coarse).addcmul_(detail, share - coarse)
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _to_bytes(sharp)
    return result


def _point(table: Operation) -> Operation:
    """The operation that looks every byte up in the image's table."""
    return lambda images, magnitude: _look_up(images, table(images, magnitude))


def _geometric(to_map: Operation) -> Operation:
    """The operation that warps every image by its map."""
    return lambda images, magnitude: _warp(images, to_map(images, magnitude))


# The order matters: apply_grouped sorts the images by operation, so that all maps are one slice
# of the batch and all tables another. It also numbers the operations, and policies draw numbers.
_PIXELWISE: dict[str, Operation] = {"identity": identity, "color": color, "sharpness": sharpness}
_MAPS: dict[str, Operation] = {
    "shear_x": _shear_x_map,
    "shear_y": _shear_y_map,
    "translate_x": _translate_x_map,
    "translate_y": _translate_y_map,
    "rotate": _rotate_map,
}
_TABLES: dict[str, Operation] = {
    "brightness": _brightness_table,
    "contrast": _contrast_table,
    "posterize": _posterize_table,
    "solarize": _solarize_table,
    "autocontrast": _autocontrast_table,
    "equalize": _equalize_table,
    "invert": _invert_table,
}
OPERATION_NAMES = (*_PIXELWISE, *_MAPS, *_TABLES)  # an operation's number is its place here

shear_x = _geometric(_shear_x_map)
shear_y = _geometric(_shear_y_map)
translate_x = _geometric(_translate_x_map)
translate_y = _geometric(_translate_y_map)
rotate = _geometric(_rotate_map)
brightness = _point(_brightness_table)
contrast = _point(_contrast_table)
posterize = _point(_posterize_table)
solarize = _point(_solarize_table)
autocontrast = _point(_autocontrast_table)
equalize = _point(_equalize_table)
invert = _point(_invert_table)


def _find_runs(operations: Tensor) -> dict[str, slice]:
    """The slice of each operation that occurs, among the sorted numbers ``(B,)``."""
    counts = operations.bincount(minlength=len(OPERATION_NAMES)).tolist()
    runs = zip(OPERATION_NAMES, counts, accumulate(counts), strict=True)
    return {name: slice(end - count, end) for name, count, end in runs if count}


def _apply_runs(
    images: Tensor,
    magnitude: Tensor,
    runs: dict[str, slice],
    parts: dict[str, Operation],
    apply: Operation,
) -> None:
    """In place: make the tables (or maps) of each run of ``parts``, then apply all in one pass."""
    found = {name: run for name, run in runs.items() if name in parts}
    if not found:
        return
    made = [parts[name](images[run], magnitude[run]) for name, run in found.items()]
    start, stop = min(run.start for run in found.values()), max(run.stop for run in found.values())
    images[start:stop] = apply(images[start:stop], torch.cat(made))


def apply_grouped(images: Tensor, operations: Tensor, magnitude: Tensor) -> Tensor:
    """Apply operation ``OPERATION_NAMES[operations[i]]`` with ``magnitude[i]`` to image i.

    The images are sorted by operation, and each operation gets its own; all on the CPU.
    """
    order, runs = operations.argsort(stable=True), _find_runs(operations)
    back = order.argsort()
    magnitude, ordered = magnitude[order], images.index_select(0, order)
    for name in _PIXELWISE.keys() & runs.keys():
        run = runs[name]
        ordered[run] = _PIXELWISE[name](ordered[run], magnitude[run])
    _apply_runs(ordered, magnitude, runs, _MAPS, _warp)
    _apply_runs(ordered, magnitude, runs, _TABLES, _look_up)
    return ordered.index_select(0, back)
