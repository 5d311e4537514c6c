"""RandAugment, TrivialAugment and AutoAugment on whole batches, with choices for every image.

images uint8 (B, C, H, W) with C 1 or 3, draws float32 (B, k) in [0, 1) -> uint8 (B, C, H, W)

Row i of the draws alone decides what happens to image i. Operations, magnitudes, signs and
probabilities are those of torchvision.transforms.v2. The choices are made on the CPU, where the
draws are, so nothing waits for the images' device.
"""

from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from vitlit.augment.layers import apply_operations
from vitlit.augment.operations import OPERATION_NAMES
from vitlit.errors import InputError

Policy = Literal["none", "autoaugment", "randaugment", "trivialaugment"]
Size = tuple[int, int]  # height and width of the images, in pixels
Layer = tuple[Tensor, Tensor]  # of each image: number of its operation (B,), magnitude (B,)

# Columns of draws per image. Another number or order changes the augmentation of every seed.
RAND_DRAWS = 2  # for each of RandAugment's operations: which one, sign
TRIVIAL_DRAWS = 3  # which operation, magnitude, sign
AUTO_DRAWS = 5  # sub-policy, then for each of its two operations: whether, sign

MAGNITUDE_BINS = 31  # levels of strength of RandAugment and TrivialAugment, 0 to 30
_AUTO_MAGNITUDE_BINS = 10  # levels of AutoAugment's published policy, 0 to 9
# invert comes last: only AutoAugment has it, RandAugment and TrivialAugment draw from the others
_NUM_CHOICES = OPERATION_NAMES.index("invert")
_BLENDS = ("brightness", "color", "contrast", "sharpness")
_SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", *_BLENDS)

# AutoAugment's policy for CIFAR-10 (Cubuk et al., 2019, table 7): each line is a sub-policy of two
# operations, each with its probability and its magnitude, 0 to 9
_CIFAR10 = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
)


@cache
def _magnitudes(bins: int, *, tops: tuple[float, ...], bits: int) -> tuple[tuple[float, ...], ...]:
    """Each operation's magnitudes, weakest first: of float32, ``(operations, bins)``.

    tops: the largest magnitudes of the operations in ``_SIGNED``; bits: the maximum number of bits
    that posterize drops.
    """
    rows = {name: torch.linspace(0.0, top, bins) for name, top in zip(_SIGNED, tops, strict=True)}
    rows["posterize"] = (8 - torch.arange(bins) / ((bins - 1) / bits)).round()
    rows["solarize"] = torch.linspace(1.0, 0.0, bins)
    return tuple(tuple(rows.get(name, torch.zeros(bins)).tolist()) for name in OPERATION_NAMES)


def _narrow_magnitudes(bins: int, size: Size) -> tuple[tuple[float, ...], ...]:
    """Magnitudes of AutoAugment and RandAugment: ``(operations, bins)``."""
    height, width = size
    # AutoAugment translates by up to 150 pixels of images 331 pixels wide; torchvision scales that
    far = (150.0 / 331.0 * width, 150.0 / 331.0 * height)
    return _magnitudes(bins, tops=(0.3, 0.3, *far, 30.0, 0.9, 0.9, 0.9, 0.9), bits=4)


def _pick_number(draw: Tensor, count: int) -> Tensor:
    """One of ``count`` equally likely numbers: ``(B,)`` in [0, 1) -> int64 ``(B,)``."""
    return (draw * count).long()


def _sign(magnitude: Tensor, operations: Tensor, draw: Tensor) -> Tensor:
    """Negate with probability one half, for the operations that have two directions."""
    signed = torch.tensor([name in _SIGNED for name in OPERATION_NAMES])[operations]
    return torch.where(signed & (draw < 0.5), -magnitude, magnitude)


def check_policy(name: str, num_ops: int, magnitude: int) -> None:
    """Raise InputError for an unknown policy, and for settings of RandAugment out of range."""
    if name not in get_args(Policy):
        known = ", ".join(get_args(Policy))
        raise InputError(f"unknown auto_augment {name!r}; known: {known}", argument="auto_augment")
    check_rand_augment(num_ops, magnitude)


def policy_draws(name: Policy, *, num_ops: int, magnitude: int) -> int:
    """Columns of draws that a policy takes; the settings are those of RandAugment."""
    match name:
        case "autoaugment":
            return AUTO_DRAWS
        case "trivialaugment":
            return TRIVIAL_DRAWS
        case "randaugment":
            return RAND_DRAWS * num_ops
        case _:
            return 0


def policy_layers(
    name: Policy, draws: Tensor, size: Size, *, num_ops: int, magnitude: int
) -> list[Layer]:
    """What a policy does to images of this size."""
    match name:
        case "autoaugment":
            return auto_layers(draws, size)
        case "trivialaugment":
            return trivial_layers(draws)
        case _:
            return rand_layers(draws, size, num_ops=num_ops, magnitude=magnitude)


def check_rand_augment(num_ops: int, magnitude: int) -> None:
    """Raise InputError for settings of RandAugment that are out of range."""
    if num_ops < 0:
        raise InputError(
            f"rand_augment_ops {num_ops} is negative; give 0 or more operations",
            argument="rand_augment_ops",
        )
    if not 0 <= magnitude < MAGNITUDE_BINS:
        raise InputError(
            f"rand_augment_magnitude {magnitude} is not in 0..{MAGNITUDE_BINS - 1}; 9 is usual",
            argument="rand_augment_magnitude",
        )


def rand_augment(images: Tensor, draws: Tensor, *, num_ops: int = 2, magnitude: int = 9) -> Tensor:
    """RandAugment (Cubuk et al., 2020): ``num_ops`` random operations in turn, of one strength.

    draws: ``(B, RAND_DRAWS * num_ops)``; magnitude: 0 to 30.
    """
    return _apply(images, rand_layers(draws, _size(images), num_ops=num_ops, magnitude=magnitude))


def rand_layers(draws: Tensor, size: Size, *, num_ops: int, magnitude: int) -> list[Layer]:
    """What :func:`rand_augment` does to images of this size."""
    check_rand_augment(num_ops, magnitude)
    draws = draws.cpu()
    strengths = torch.tensor([row[magnitude] for row in _narrow_magnitudes(MAGNITUDE_BINS, size)])
    layers = []
    for column in range(0, RAND_DRAWS * num_ops, RAND_DRAWS):
        operations = _pick_number(draws[:, column], _NUM_CHOICES)
        signed = _sign(strengths[operations], operations, draws[:, column + 1])
        layers.append((operations, signed))
    return layers


def trivial_augment(images: Tensor, draws: Tensor) -> Tensor:
    """TrivialAugmentWide (Müller and Hutter, 2021): one operation of random strength.

    draws: ``(B, TRIVIAL_DRAWS)``. Images are translated by up to 32 pixels, whatever their size.
    """
    return _apply(images, trivial_layers(draws))


def trivial_layers(draws: Tensor) -> list[Layer]:
    """What :func:`trivial_augment` does."""
    tops = (0.99, 0.99, 32.0, 32.0, 135.0, 0.99, 0.99, 0.99, 0.99)
    table = torch.tensor(_magnitudes(MAGNITUDE_BINS, tops=tops, bits=6))
    which, strength, sign = draws.cpu().unbind(1)
    operations = _pick_number(which, _NUM_CHOICES)
    magnitude = table[operations, _pick_number(strength, MAGNITUDE_BINS)]
    return [(operations, _sign(magnitude, operations, sign))]


def auto_augment(images: Tensor, draws: Tensor) -> Tensor:
    """AutoAugment (Cubuk et al., 2019): one of the 25 sub-policies found for CIFAR-10.

    draws: ``(B, AUTO_DRAWS)``.
    """
    return _apply(images, auto_layers(draws, _size(images)))


def auto_layers(draws: Tensor, size: Size) -> list[Layer]:
    """What :func:`auto_augment` does to images of this size."""
    table = torch.tensor(_narrow_magnitudes(_AUTO_MAGNITUDE_BINS, size))
    draws = draws.cpu()
    chosen = _pick_number(draws[:, 0], len(_CIFAR10))
    layers = []
    for step, (column, sign) in enumerate(((1, 2), (3, 4))):
        names, chances, bins = zip(*(pair[step] for pair in _CIFAR10), strict=True)
        happens = draws[:, column] < torch.tensor(chances)[chosen]
        planned = torch.tensor([OPERATION_NAMES.index(name) for name in names])[chosen]
        # the whole batch in one call: images whose operation does not happen get the identity
        operations = torch.where(happens, planned, OPERATION_NAMES.index("identity"))
        magnitude = table[operations, torch.tensor(bins)[chosen]]
        layers.append((operations, _sign(magnitude, operations, draws[:, sign])))
    return layers


def _size(images: Tensor) -> Size:
    return images.shape[2], images.shape[3]


def _apply(images: Tensor, layers: list[Layer]) -> Tensor:
    for operations, magnitude in layers:
        images = apply_operations(images, operations, magnitude)
    return images
