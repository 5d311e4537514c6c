"""Colour jitter, grayscale, Gaussian blur and 3-Augment on whole batches, drawn per image.

draws (B, k) in [0, 1) -> plan: operations with magnitudes, widths of the blur
images uint8 (B, C, H, W), plan -> uint8 (B, C, H, W)

Changes of colour are the operations of :mod:`vitlit.augment.operations`, in layers: each image has
its own operation in each. The blur and the hue are of their own.
"""

from collections.abc import Mapping
from itertools import permutations
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.augment.operations import OPERATION_NAMES
from vitlit.augment.policies import Layer
from vitlit.augment.setting_checks import check_shares
from vitlit.errors import InputError

JITTERED = ("brightness", "contrast", "color")  # torchvision's saturation is "color" here
HUE = len(JITTERED)  # the place of the hue among the strengths, if it is given
# Columns of draws per image. Another number changes the augmentation of every seed.
GRAYSCALE_DRAWS, BLUR_DRAWS = 1, 2
MAX_HUE = 0.5  # of a turn around the circle of colours
SIGMAS = (0.1, 2.0)  # of the blur in pixels, uniform (DeiT III; SimCLR)
BLUR_RADIUS = 4  # pixels on each side that the blur takes in
THREE_JITTER = [0.3, 0.3, 0.3]  # that 3-Augment adds (DeiT III, section 3)
GREY = -1.0  # magnitude of "color" that takes all colour away
HUE_ENDING = "_hue"  # of the names of the parts of a plan that are shifts of the hue
HALF = 0.5  # magnitude of "solarize" that inverts all bytes from 128 on


class Colour(NamedTuple):
    """The settings, checked: strengths of jitter (brightness, contrast, saturation and perhaps
    hue), empty for none; probabilities of grayscale and blur; whether 3-Augment is on, which has
    the jitter in it.
    """

    jitter: tuple[float, ...]
    grayscale: float
    blur: float
    three: bool

    def columns(self) -> dict[Any, int]:
        """Columns of draws that each stage takes; 0 if it is off."""
        return {
            # of jitter, a factor each and the order
            "three_augment": (2 + len(self.jitter) + 1) * self.three,
            "color_jitter": (len(self.jitter) + 1) * (bool(self.jitter) and not self.three),
            "grayscale": GRAYSCALE_DRAWS * (self.grayscale > 0),
            "blur": BLUR_DRAWS * (self.blur > 0),
        }

    def layers(self, drawn: Mapping[Any, Tensor]) -> dict[str, list[Layer] | Tensor]:
        """What happens to each image, in order: layers of operations, widths of the blur, or shifts
        of the hue."""
        found: dict[str, list[Layer] | Tensor] = {}
        if (draws := drawn.get("three_augment")) is not None:
            found["three_augment"] = three_layers(draws)
            found["three_augment_blur"] = three_sigmas(draws)
            found |= jitter_steps("three_augment_jitter", draws[:, 2:], self.jitter)
        if (draws := drawn.get("color_jitter")) is not None:
            found |= jitter_steps("color_jitter", draws, self.jitter)
        if (draws := drawn.get("grayscale")) is not None:
            found["grayscale"] = grayscale_layers(draws, self.grayscale)
        if (draws := drawn.get("blur")) is not None:
            found["blur"] = blur_sigmas(draws, self.blur)
        return found


def colour_settings(
    jitter: list[float] | None, grayscale: float, blur: float, three: bool
) -> Colour:
    """The settings that a user gave. Raises InputError for those that are out of range."""
    check_shares(grayscale=grayscale, blur=blur)
    strengths = jitter or (THREE_JITTER if three else [])
    if jitter is not None and len(jitter) not in (HUE, HUE + 1):
        raise InputError(
            f"color_jitter {jitter} needs three strengths: of brightness, contrast and saturation; "
            f"or four, with that of the hue",
            argument="color_jitter",
        )
    for place, value in enumerate(strengths):
        most = MAX_HUE if place == HUE else 1
        if not 0.0 <= value <= most:
            raise InputError(
                f"color_jitter {value} is not a strength{' of the hue' if place == HUE else ''}; "
                f"give numbers from 0 to {most:g}",
                argument="color_jitter",
            )
    return Colour(tuple(strengths), grayscale, blur, three)


def _number(name: str) -> int:
    return OPERATION_NAMES.index(name)


def jitter_layers(draws: Tensor, strengths: tuple[float, ...]) -> list[Layer]:
    """Brightness, contrast and saturation times 1 - s to 1 + s each, in a random order.

    draws: ``(B, k + 1)``: the factors, and the order; see torchvision's ColorJitter. With a fourth
    strength the images whose turn of the hue it is stay as they are.
    """
    # (B, k): factors less 1, of the factors as float32 holds them: torchvision starts from those
    magnitudes = (1 + (2 * draws[:, :-1] - 1) * torch.tensor(strengths)) - 1
    order = _orders(draws, len(strengths))  # (B, k)
    names = (*JITTERED, "identity")[: len(strengths)]
    numbers = torch.tensor([_number(name) for name in names])
    ordered = magnitudes.gather(1, order)
    return list(zip(numbers[order].unbind(1), ordered.unbind(1), strict=True))


def _orders(draws: Tensor, count: int) -> Tensor:
    """The order ``(B, count)`` of each image's changes, by the last column of its draws."""
    orders = torch.tensor(list(permutations(range(count))))
    return orders[(draws[:, -1] * len(orders)).long()]


def hue_shifts(draws: Tensor, strength: float) -> Tensor:
    """Shifts ``(B, 4)`` of the hue in each turn, from -s to s in one of the four, 0 in the others.

    draws: ``(B, 5)``, as of :func:`jitter_layers`.
    """
    is_turn = _orders(draws, HUE + 1) == HUE
    return torch.where(is_turn, (2 * draws[:, HUE : HUE + 1] - 1) * strength, 0.0)


def jitter_steps(
    name: str, draws: Tensor, strengths: tuple[float, ...]
) -> dict[str, list[Layer] | Tensor]:
    """The layers of a jitter, with a shift of the hue after each of them if that has a strength.

    draws: ``(B, k + 1)``, as of :func:`jitter_layers`.
    """
    layers = jitter_layers(draws, strengths)
    if len(strengths) == HUE:
        return {name: layers}
    found: dict[str, list[Layer] | Tensor] = {}
    for turn, shift in enumerate(torch.split(hue_shifts(draws, strengths[HUE]), 1, dim=1)):
        found[f"{name}_{turn}"] = [layers[turn]]
        found[f"{name}_{turn}{HUE_ENDING}"] = shift
    return found


def shift_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Turn the colours of uint8 images by shifts ``(B, 1)`` of a full turn; 0 leaves them as they
    are, and grey images stay grey.

    In torchvision's arithmetic, by hue, saturation and value; without branches.
    """
    if images.shape[1] == 1:
        return images
    values = images.float() * (1 / 255)
    red, green, _ = values.unbind(1)  # (B, H, W)
    low, high = values.aminmax(dim=1)
    span, is_grey = high - low, high == low
    saturation = span / high.masked_fill(is_grey, 1.0)
    # distances from the largest channel; of grey pixels any number will do
    parts = (high[:, None] - values) / span.masked_fill(is_grey, 1.0)[:, None]
    far_red, far_green, far_blue = parts.unbind(1)
    of_others = torch.where(high == green, far_red + 2 - far_blue, far_green + 4 - far_red)
    sixths = torch.where(high == red, far_blue - far_green, of_others)
    hue = (sixths * (1 / 6) + 1).fmod(1)
    turned = 6 * (hue + shifts[:, :, None]).remainder(1)
    sector = turned.floor()
    rest = turned - sector
    pale = 1 - saturation
    falling = ((1 - saturation * rest) * high).clamp(0, 1)
    rising = ((saturation * rest + pale) * high).clamp(0, 1)
    least = (pale * high).clamp(0, 1)
    # what red is in each sixth of the circle; green is red four sixths on, blue two
    circle = torch.stack([high, falling, least, least, rising, high], dim=1)
    sectors = torch.stack([sector, sector + 4, sector + 2], dim=1).long().remainder(6)
    # as torchvision converts [0, 1] to bytes: nearly equal shares of it for each of the 256
    found = (circle.gather(1, sectors) * 255.999).to(images.dtype)
    return torch.where(shifts[:, :, None, None] == 0, images, found)


def grayscale_layers(draws: Tensor, probability: float) -> list[Layer]:
    """Grey images with that probability; draws: ``(B, 1)``."""
    return [_all_grey(draws[:, 0] < probability)]


def _all_grey(chosen: Tensor) -> Layer:
    numbers = torch.where(chosen, _number("color"), _number("identity"))
    return numbers, torch.where(chosen, GREY, 0.0)


def three_layers(draws: Tensor) -> list[Layer]:
    """3-Augment (Touvron et al., 2022): a third of the images grey, a third solarised.

    The others are blurred by :func:`three_sigmas`. draws: ``(B, 6)``: which, the blur's width, and
    those of the jitter that follows.
    """
    which = (draws[:, 0] * 3).long()
    numbers, magnitudes = _all_grey(which == 0)
    is_solar = which == 1
    numbers = torch.where(is_solar, _number("solarize"), numbers)
    return [(numbers, torch.where(is_solar, HALF, magnitudes))]


def three_sigmas(draws: Tensor) -> Tensor:
    """Widths of the blur of 3-Augment ``(B, 1)``, 0 for none; draws: ``(B, 6)``."""
    return _sigmas(draws[:, 1:2], (draws[:, :1] * 3).long() == 2)


def blur_sigmas(draws: Tensor, probability: float) -> Tensor:
    """Widths of the blur ``(B, 1)``, 0 for none; draws: ``(B, 2)``: whether, and the width."""
    return _sigmas(draws[:, 1:], draws[:, :1] < probability)


def _sigmas(draws: Tensor, chosen: Tensor) -> Tensor:
    low, high = SIGMAS
    return torch.where(chosen, low + (high - low) * draws, 0.0)


def gaussian_blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blur uint8 images by widths ``(B, 1)`` in pixels; those of width 0 stay as they are.

    As torchvision does with a kernel of 9 pixels, less for images of fewer; mirrored at the edges.
    """
    radius = min(BLUR_RADIUS, min(images.shape[2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    # a width of 0 leaves the weight of the pixel itself alone, exactly 1
    exponent = offsets.square() / (2 * sigmas.square().clamp(min=1e-6))
    weights = (-exponent).softmax(dim=1)[:, :, None, None, None]  # (B, 2*radius + 1, 1, 1, 1)
    padded = F.pad(images.float(), (radius,) * 4, mode="reflect")
    for axis in (2, 3):
        # Not a convolution: autocast or TF32 would round its pixels.
        size = images.shape[axis]
        parts = [padded.narrow(axis, start, size) for start in range(2 * radius + 1)]
        total = parts[0] * weights[:, 0]
        for place, part in enumerate(parts[1:], start=1):
            total = torch.addcmul(total, part, weights[:, place])
        padded = total
    return padded.round_().to(images.dtype)
