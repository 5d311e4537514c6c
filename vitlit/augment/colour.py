"""Colour jitter, grayscale, Gaussian blur and 3-Augment on whole batches, drawn per image.

draws (B, k) in [0, 1) -> plan: operations with magnitudes, widths of the blur
images uint8 (B, C, H, W), plan -> uint8 (B, C, H, W)

Changes of colour are the operations of :mod:`vitlit.augment.operations`, in layers: each image has
its own operation in each. Only the blur is one of its own.
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
ORDERS = tuple(permutations(range(len(JITTERED))))
# Columns of draws per image. Another number changes the augmentation of every seed.
JITTER_DRAWS, GRAYSCALE_DRAWS, BLUR_DRAWS = len(JITTERED) + 1, 1, 2
THREE_DRAWS = 2 + JITTER_DRAWS
SIGMAS = (0.1, 2.0)  # of the blur in pixels, uniform (DeiT III; SimCLR)
BLUR_RADIUS = 4  # pixels on each side that the blur takes in
THREE_JITTER = [0.3, 0.3, 0.3]  # that 3-Augment adds (DeiT III, section 3)
GREY = -1.0  # magnitude of "color" that takes all colour away
HALF = 0.5  # magnitude of "solarize" that inverts all bytes from 128 on


class Colour(NamedTuple):
    """The settings, checked: strengths of jitter (brightness, contrast, saturation), empty for
    none; probabilities of grayscale and blur; whether 3-Augment is on, which has the jitter in it.
    """

    jitter: tuple[float, ...]
    grayscale: float
    blur: float
    three: bool

    def columns(self) -> dict[Any, int]:
        """Columns of draws that each stage takes; 0 if it is off."""
        return {
            "three_augment": THREE_DRAWS * self.three,
            "color_jitter": JITTER_DRAWS * (bool(self.jitter) and not self.three),
            "grayscale": GRAYSCALE_DRAWS * (self.grayscale > 0),
            "blur": BLUR_DRAWS * (self.blur > 0),
        }

    def layers(self, drawn: Mapping[Any, Tensor]) -> dict[str, list[Layer] | Tensor]:
        """What happens to each image, in order: layers of operations, or widths of the blur."""
        found: dict[str, list[Layer] | Tensor] = {}
        if (draws := drawn.get("three_augment")) is not None:
            found["three_augment"] = three_layers(draws)
            found["three_augment_blur"] = three_sigmas(draws)
            found["three_augment_jitter"] = jitter_layers(draws[:, 2:], self.jitter)
        if (draws := drawn.get("color_jitter")) is not None:
            found["color_jitter"] = jitter_layers(draws, self.jitter)
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
    if jitter is not None and len(jitter) != len(JITTERED):
        raise InputError(
            f"color_jitter {jitter} needs three strengths: of brightness, contrast and saturation",
            argument="color_jitter",
        )
    for value in strengths:
        if not 0.0 <= value <= 1.0:
            raise InputError(
                f"color_jitter {value} is not a strength; give numbers from 0 to 1",
                argument="color_jitter",
            )
    return Colour(tuple(strengths), grayscale, blur, three)


def _number(name: str) -> int:
    return OPERATION_NAMES.index(name)


def jitter_layers(draws: Tensor, strengths: tuple[float, ...]) -> list[Layer]:
    """Brightness, contrast and saturation times 1 - s to 1 + s each, in a random order.

    draws: ``(B, 4)``: the three factors, and the order; see torchvision's ColorJitter.
    """
    # (B, 3): factors less 1, of the factors as float32 holds them: torchvision starts from those
    magnitudes = (1 + (2 * draws[:, :-1] - 1) * torch.tensor(strengths)) - 1
    order = torch.tensor(ORDERS)[(draws[:, -1] * len(ORDERS)).long()]  # (B, 3)
    numbers = torch.tensor([_number(name) for name in JITTERED])
    ordered = magnitudes.gather(1, order)
    return list(zip(numbers[order].unbind(1), ordered.unbind(1), strict=True))


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
