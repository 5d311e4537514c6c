"""Operations of torchvision on one image, magnitudes for them, and noise to apply them to."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

SHEARS, SHIFTS = torch.linspace(-0.99, 0.99, 31), torch.linspace(-32.0, 32.0, 31)
SHARES = torch.cat([torch.linspace(-0.99, 0.99, 31), torch.linspace(-0.9, 0.9, 31)])
MAGNITUDES = {
    "shear_x": SHEARS,
    "shear_y": SHEARS,
    "translate_x": SHIFTS,
    "translate_y": SHIFTS,
    "rotate": torch.linspace(-135.0, 135.0, 31),
    **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), SHARES),
    "posterize": torch.arange(9.0),
    "solarize": torch.linspace(0.0, 1.0, 31),
    **dict.fromkeys(("identity", "autocontrast", "equalize", "invert"), torch.zeros(8)),
}


def by_torchvision(name: str, image: Tensor, magnitude: float) -> Tensor:
    """One image; torchvision.transforms.v2.RandAugment's calls."""
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    slope, steps = math.degrees(math.atan(magnitude)), int(magnitude)
    calls = {
        "identity": lambda: image,
        "shear_x": lambda: tv.affine(image, **still | {"shear": [slope, 0.0]}, center=[0, 0]),
        "shear_y": lambda: tv.affine(image, **still | {"shear": [0.0, slope]}, center=[0, 0]),
        "translate_x": lambda: tv.affine(image, **still | {"translate": [steps, 0]}),
        "translate_y": lambda: tv.affine(image, **still | {"translate": [0, steps]}),
        "rotate": lambda: tv.rotate(image, magnitude),
        "brightness": lambda: tv.adjust_brightness(image, 1.0 + magnitude),
        "color": lambda: tv.adjust_saturation(image, 1.0 + magnitude),
        "contrast": lambda: tv.adjust_contrast(image, 1.0 + magnitude),
        "sharpness": lambda: tv.adjust_sharpness(image, 1.0 + magnitude),
        "posterize": lambda: tv.posterize(image, steps),
        "solarize": lambda: tv.solarize(image, 255.0 * magnitude),
        "autocontrast": lambda: tv.autocontrast(image),
        "equalize": lambda: tv.equalize(image),
        "invert": lambda: tv.invert(image),
    }
    result: Tensor = calls[name]()
    return result


def noise(count: int, channels: int = 3, height: int = 9, width: int = 12) -> Tensor:
    """Noise of which every other image uses only a part of the values."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, height, width)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    images[1::2] = images[1::2] // 3 + 20
    return images
