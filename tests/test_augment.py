"""Batched augmentations against torchvision, one image at a time with the same draws."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as tv

from vitlit.augment import random_crop, random_flip

ALMOST_ONE = 1 - 2.0**-24  # the largest draw there is


def noise(count: int, channels: int = 3, height: int = 5, width: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, height, width)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def some_draws(count: int, columns: int) -> Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(1))


def crop_slowly(image: Tensor, draw: list[float], padding: int) -> Tensor:
    """One image, padded and cut by torchvision."""
    top, left = (int(value * (2 * padding + 1)) for value in draw)
    cut: Tensor = tv.crop(tv.pad(image, [padding]), top, left, *image.shape[-2:])
    return cut


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_equals_padding_and_cutting_each_image(padding: int) -> None:
    images, draws = noise(32), some_draws(32, 2)
    pairs = zip(images, draws.tolist(), strict=True)
    expected = torch.stack([crop_slowly(image, draw, padding) for image, draw in pairs])
    assert torch.equal(random_crop(images, draws, padding=padding), expected)


def test_every_offset_of_a_crop_is_equally_likely() -> None:
    padding, side, repeats = 2, 5, 4
    values = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)  # the centre tells the offset
    steps = (torch.arange(side * repeats) + 0.5) / (side * repeats)  # draws spread evenly
    draws = torch.cartesian_prod(steps, steps)
    crops = random_crop(values.expand(len(draws), -1, -1, -1), draws, padding=padding)
    assert crops[:, 0, 2, 2].bincount(minlength=26).tolist() == [0] + [repeats**2] * 25


@pytest.mark.parametrize("padding", range(9))
def test_the_largest_draw_is_the_last_offset(padding: int) -> None:
    image = noise(1, height=20, width=20)
    found = random_crop(image, torch.full((1, 2), ALMOST_ONE), padding=padding)
    expected = tv.crop(tv.pad(image, [padding]), 2 * padding, 2 * padding, 20, 20)
    assert torch.equal(found, expected)


def test_flip_mirrors_the_images_whose_draw_is_below_one_half() -> None:
    images = noise(5)
    draws = torch.tensor([[0.0], [0.49], [0.5], [0.51], [ALMOST_ONE]])
    expected = torch.stack([*map(tv.hflip, images[:2]), *images[2:]])
    assert torch.equal(random_flip(images, draws), expected)


def test_a_crop_depends_on_the_images_own_draws_alone() -> None:
    images, draws = noise(8), some_draws(8, 2)
    alone = [random_crop(images[i : i + 1], draws[i : i + 1], padding=2) for i in range(8)]
    assert torch.equal(random_crop(images, draws, padding=2), torch.cat(alone))


def test_a_flip_depends_on_the_images_own_draw_alone() -> None:
    images, draws = noise(8), some_draws(8, 1)
    alone = [random_flip(images[i : i + 1], draws[i : i + 1]) for i in range(8)]
    assert torch.equal(random_flip(images, draws), torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_keeps_the_type(dtype: torch.dtype) -> None:
    images = noise(4).to(dtype)
    cropped = random_crop(images, some_draws(4, 2), padding=1)
    assert random_flip(cropped, some_draws(4, 1)).dtype == dtype
