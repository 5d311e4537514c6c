"""Batched augmentations against torchvision, one image at a time with the same draws."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as tv

from vitlit.augment import RESIZED_CROP_DRAWS, random_crop, random_flip, resized_crop_boxes

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


def test_boxes_of_a_resized_crop_have_torchvisions_distribution() -> None:
    torch.manual_seed(0)
    scale, ratio = (0.2, 1.0), (0.75, 4 / 3)
    image = torch.empty(3, 40, 60)
    theirs = [
        RandomResizedCrop.get_params(image, list(scale), list(ratio))  # top, left, height, width
        for _ in range(3000)
    ]
    draws = some_draws(3000, RESIZED_CROP_DRAWS)
    ours = resized_crop_boxes(draws, height=40, width=60, scale=scale, ratio=ratio).double()
    expected = torch.tensor(theirs).double()
    quantiles = torch.tensor([0.1, 0.5, 0.9]).double()
    torch.testing.assert_close(ours.mean(0), expected.mean(0), rtol=0, atol=1.0)
    gap = ours.quantile(quantiles, dim=0) - expected.quantile(quantiles, dim=0)
    assert gap.abs().max() <= 2


@pytest.mark.parametrize("size", [(10, 1000), (1000, 10)])
def test_a_shape_that_no_try_fits_gets_the_central_box_of_torchvision(
    size: tuple[int, int],
) -> None:
    scale, ratio = (1.0, 1.0), (0.75, 4 / 3)
    theirs = RandomResizedCrop.get_params(torch.empty(1, *size), list(scale), list(ratio))
    draws = some_draws(4, RESIZED_CROP_DRAWS)
    ours = resized_crop_boxes(draws, height=size[0], width=size[1], scale=scale, ratio=ratio)
    assert ours.tolist() == [list(theirs)] * 4


def test_boxes_stay_inside_images_of_different_sizes() -> None:
    draws = torch.tensor([[0.0], [ALMOST_ONE], [0.5]]).expand(-1, RESIZED_CROP_DRAWS)
    height, width = torch.tensor([5, 50, 500]), torch.tensor([7, 30, 900])
    boxes = resized_crop_boxes(
        draws, height=height, width=width, scale=(0.08, 1.0), ratio=(0.7, 1.4)
    )
    top, left, rows, cols = boxes.unbind(dim=1)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] > 0).all()
    assert (top + rows <= height).all()
    assert (left + cols <= width).all()
