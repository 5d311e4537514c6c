"""All augmentation operations as one chain that every image goes through: few launches.

images uint8 (B, C, H, W), operations int64 (B,), magnitude float32 (B,) -> uint8 (B, C, H, W)

Grouping the images by operation, as :mod:`vitlit.augment.operations` does, launches a few kernels
for each of fifteen operations, and the host decides which. Here each image passes a blend, a table
and a map, of which all but one are the identity; the numbers are those of the grouped operations.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.augment.operation_maths import luma, sample_nearest, wide


class Plan(NamedTuple):
    """What happens to each image; all ``(B, 1, 1, 1)`` but the maps.

    A blend is ``factor * v + share * (detail - grey - mean)``, where sharp, grey and mean switch
    the three on; a table drops all below ``step`` and inverts from ``threshold`` on; then stretched
    and equalised switch on these two. maps: ``(B, 2, 3)``, in half images.
    """

    factor: Tensor
    share: Tensor
    sharp: Tensor
    grey: Tensor
    mean: Tensor
    step: Tensor
    threshold: Tensor
    stretched: Tensor
    equalised: Tensor
    maps: Tensor


def make_plan(
    names: tuple[str, ...], operations: Tensor, magnitude: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    """What :class:`Plan` holds, as one tensor ``(B, 15)``, so that it is one copy to a device.

    names: of the operations' numbers; shape: of an image, (C, H, W).
    """
    channels, height, width = shape
    numbers = torch.arange(len(names), device=operations.device)
    chosen = dict(zip(names, (operations[:, None] == numbers).unbind(1), strict=True))
    is_blend = chosen["brightness"] | chosen["contrast"]
    if channels > 1:  # grey images stay as they are
        is_blend = is_blend | chosen["color"]
    is_sharp = chosen["sharpness"] & (min(height, width) > 2)  # else there are no inner pixels

    def only(name: str, value: Tensor = magnitude) -> Tensor:
        return torch.where(chosen[name], value, 0.0)

    angle = wide(only("rotate")).deg2rad()
    cosine, sine = angle.cos().float(), angle.sin().float()
    shear_x, shear_y = only("shear_x"), only("shear_y")
    x1 = shear_x * (height / 2) - only("translate_x").trunc()
    y1 = shear_y * (width / 2) - only("translate_y").trunc()
    columns = [
        torch.where(is_blend, 1 + magnitude, 1.0),
        torch.where(is_blend | is_sharp, magnitude, 0.0),
        is_sharp,
        chosen["color"] & (channels > 1),
        chosen["contrast"],
        torch.where(chosen["posterize"], 8 - magnitude.trunc(), 0.0).exp2(),
        torch.where(chosen["solarize"], 255 * magnitude, torch.inf).masked_fill(
            chosen["invert"], 0.0
        ),
        chosen["autocontrast"],
        chosen["equalize"],
        # rows of the map, each divided by half the width or height
        *(value / (width / 2) for value in (cosine, shear_x - sine, x1)),
        *(value / (height / 2) for value in (sine + shear_y, cosine, y1)),
    ]
    return torch.stack([column.float() for column in columns], dim=1)


def _split(plan: Tensor) -> Plan:
    """The columns of :func:`make_plan`."""
    columns = plan[:, :9, None, None, None].unbind(1)
    return Plan(*columns, plan[:, 9:].view(-1, 2, 3))  # type: ignore[call-arg]  # unbind gives 9


def apply_plan(images: Tensor, plan: Tensor) -> Tensor:
    """Do what the plan ``(B, 15)`` of :func:`make_plan` says; both on the images' device."""
    parts = _split(plan)
    values = _blended(images.float(), parts)
    places = values.flatten(2).long()
    values = _tables(places, parts).gather(2, places).view_as(values)
    return sample_nearest(values, parts.maps).to(torch.uint8)


def _blended(values: Tensor, plan: Plan) -> Tensor:
    """Whole numbers of 0..255, away from black, mean grey, a pixel's own grey, or a blur."""
    grey = luma(values)  # (B, 1, H, W)
    # float64 sums of whole numbers are exact at any image size, whatever the order of addition
    mean = grey.mean(dim=(1, 2, 3), keepdim=True, dtype=wide(grey[:0]).dtype).float()
    other = grey * plan.grey + mean * plan.mean
    delta = _detail(values) * plan.sharp - other
    # float64 does what torchvision's add(alpha=...) does: products are exact, sums rounded once
    blended = torch.addcmul(values * plan.factor, delta, wide(plan.share))
    return blended.float().clamp_(0, 255).floor_()


def _detail(values: Tensor) -> Tensor:
    """What a 3x3 blur takes away, 0 in the outer pixels; the centre weighs 5/13, others 1/13."""
    if min(values.shape[2:]) <= 2:
        return torch.zeros_like(values)
    inner = values[:, :, 1:-1, 1:-1]
    # sums of whole numbers, which float32 holds exactly
    sums = F.avg_pool2d(values, 3, stride=1, divisor_override=1)
    return F.pad(inner - sums.add_(inner, alpha=4).mul_(1 / 13).round_(), (1, 1, 1, 1))


def _tables(pixels: Tensor, plan: Plan) -> Tensor:
    """What becomes of each byte, whole numbers in float32 ``(B, C, 256)``.

    pixels: int64 ``(B, C, H*W)``.
    """
    step, threshold = plan.step.flatten(1)[..., None], plan.threshold.flatten(1)[..., None]
    values = torch.arange(256.0, device=pixels.device)
    values = (values / step).floor_() * step  # (B, 1, 256)
    values = torch.where(values >= threshold, 255 - values, values)
    low, high = pixels.aminmax(dim=2, keepdim=True)  # (B, C, 1)
    return _equalised(_stretched(values, low, high, plan.stretched), pixels, high, plan.equalised)


def _stretched(values: Tensor, low: Tensor, high: Tensor, on: Tensor) -> Tensor:
    """Tables with each channel's values stretched to 0..255; those of one value stay."""
    span = (high - low) * on.flatten(1)[..., None]
    is_flat = span == 0
    scale = torch.where(is_flat, 1.0, span * (1 / 255))
    return ((values - low.masked_fill(is_flat, 0.0)) / scale).clamp_(0, 255).floor_()


def _equalised(tables: Tensor, pixels: Tensor, high: Tensor, on: Tensor) -> Tensor:
    """Tables that flatten each channel's histogram, in PIL's integers."""
    counts = torch.zeros(tables.shape, dtype=torch.int32, device=tables.device)
    counts.scatter_add_(2, pixels, counts.new_ones(1).expand_as(pixels))
    step = (pixels.shape[2] - counts.gather(2, high)) // 255  # (B, C, 1)
    step = step * on.flatten(1)[..., None].int()
    below = counts.cumsum(dim=2) - counts
    flat = (below + step // 2) // step.clamp(min=1)
    return torch.where(step == 0, tables, flat.clamp_(max=255))
