"""Batched augmentations against torchvision, one image at a time with the same draws."""

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomErasing, RandomResizedCrop
from torchvision.transforms import functional as tv
from torchvision.transforms.v2 import functional as v2

from vitlit.augment.geometric import (
    ERASING_DRAWS,
    RESIZED_CROP_DRAWS,
    random_crop,
    random_erasing,
    random_flip,
    random_resized_crop,
    random_rotation,
    resized_crop_box,
    resized_crop_boxes,
)

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


def tries_slowly(
    draw: list[float], pixels: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> list[tuple[int, int]]:
    """The sides of ten boxes, sqrt(area / shape) and sqrt(area * shape), from 20 draws."""
    tries = []
    for share, shape in zip(draw[::2], draw[1::2], strict=True):
        area = pixels * (scale[0] + share * (scale[1] - scale[0]))
        aspect = ratio[0] ** (1 - shape) * ratio[1] ** shape
        tries.append((round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))))
    return tries


def box_slowly(
    draw: list[float], scale: tuple[float, float], ratio: tuple[float, float]
) -> list[int]:
    """The box that one image of 30x20 pixels gets, for ratios from 1 on."""
    for height, width in tries_slowly(draw[:20], 600, scale, ratio):
        if 0 < height <= 30 and 0 < width <= 20:
            top, left = int(draw[20] * (31 - height)), int(draw[21] * (21 - width))
            return [top, left, height, width]
    return [5, 0, 20, 20]  # the largest square, in the middle


def test_the_first_try_that_fits_decides_the_box() -> None:
    draws, scale, ratio = some_draws(500, RESIZED_CROP_DRAWS), (0.5, 1.0), (1.0, 3.0)
    found = resized_crop_boxes(draws, height=30, width=20, scale=scale, ratio=ratio).tolist()
    assert found == [box_slowly(draw, scale, ratio) for draw in draws.tolist()]


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


# -- resized crop -----------------------------------------------------------------------------


def worst(found: Tensor, expected: Tensor) -> int:
    return int((found.int() - expected.int()).abs().max())


@pytest.mark.parametrize("size", [(8, 8), (20, 9), (40, 64)], ids=["smaller", "mixed", "larger"])
@pytest.mark.parametrize("channels", [1, 3])
def test_resized_crop_equals_torchvisions_of_the_same_box(
    size: tuple[int, int], channels: int
) -> None:
    images, draws = noise(24, channels, 30, 20), some_draws(24, RESIZED_CROP_DRAWS)
    shape = {"scale": (0.1, 1.0), "ratio": (0.5, 2.0)}
    boxes = resized_crop_boxes(draws, height=30, width=20, **shape).tolist()
    expected = torch.stack(
        [
            v2.resized_crop(image.float(), *box, list(size), antialias=True)
            for image, box in zip(images, boxes, strict=True)
        ]
    )
    found = random_resized_crop(images, draws, size=size, **shape)
    assert found.dtype == torch.uint8
    assert float((found - expected).abs().max()) <= 0.501  # rounded once, at the end


def test_a_resized_crop_is_within_a_grey_level_of_torchvisions_of_bytes() -> None:
    images, draws = noise(24, 3, 30, 20), some_draws(24, RESIZED_CROP_DRAWS)
    shape = {"scale": (0.1, 1.0), "ratio": (0.5, 2.0)}
    boxes = resized_crop_boxes(draws, height=30, width=20, **shape).tolist()
    pairs = zip(images, boxes, strict=True)
    expected = torch.stack([v2.resized_crop(image, *box, [16, 16]) for image, box in pairs])
    assert worst(random_resized_crop(images, draws, size=(16, 16), **shape), expected) <= 1


def test_a_resized_crop_of_everything_changes_nothing() -> None:
    images = noise(4, 3, 12, 12)
    found = random_resized_crop(
        images, some_draws(4, RESIZED_CROP_DRAWS), size=(12, 12), scale=(1.0, 1.0), ratio=(1.0, 1.0)
    )
    assert torch.equal(found, images)


# -- rotation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (11, 24)])
@pytest.mark.parametrize("channels", [1, 3])
def test_rotation_equals_torchvisions_by_the_same_angle(
    shape: tuple[int, int], channels: int
) -> None:
    images, draws = noise(16, channels, *shape), some_draws(16, 1)
    angles = ((2 * draws - 1) * 50).flatten().tolist()
    expected = torch.stack(
        [
            v2.rotate(image, angle, InterpolationMode.BILINEAR)
            for image, angle in zip(images, angles, strict=True)
        ]
    )
    assert worst(random_rotation(images, draws, degrees=50), expected) <= 1


def test_rotations_go_both_ways_and_reach_the_ends() -> None:
    image = noise(1, height=15, width=15).expand(3, -1, -1, -1)
    found = random_rotation(image, torch.tensor([[0.0], [0.5], [ALMOST_ONE]]), degrees=90)
    assert torch.equal(
        found, torch.stack([image[0].rot90(-1, (1, 2)), image[0], image[0].rot90(1, (1, 2))])
    )


# -- erasing ----------------------------------------------------------------------------------


def erased_boxes(erased: Tensor) -> Tensor:
    """Top, left, height, width of what is 0 in images of ones; zeros where nothing is."""
    gone = erased[:, 0] == 0
    rows, cols = gone.any(2).int(), gone.any(1).int()
    tops, lefts = rows.argmax(1), cols.argmax(1)
    return torch.stack([tops, lefts, rows.sum(1), cols.sum(1)], dim=1)


def test_erasing_is_distributed_as_torchvisions() -> None:
    count = 4000
    ones = torch.ones(count, 1, 16, 24)
    found = erased_boxes(random_erasing(ones, some_draws(count, ERASING_DRAWS), probability=1.0))
    torch.manual_seed(0)
    random.seed(0)
    erase = RandomErasing(p=1.0)
    theirs = erased_boxes(torch.stack([erase(image) for image in ones]))
    torch.testing.assert_close(found.float().mean(0), theirs.float().mean(0), rtol=0.05, atol=0.1)
    torch.testing.assert_close(found.float().std(0), theirs.float().std(0), rtol=0.05, atol=0.1)


def erase_slowly(image: Tensor, draw: list[float], scale: tuple[float, float]) -> Tensor:
    """One image, with probability one half; torchvision's rules, its default shapes."""
    rows, cols = image.shape[1:]
    if draw[0] >= 0.5:
        return image
    # the ratio of an erasing is height to width, that of a crop width to height
    for width, height in tries_slowly(draw[1:21], rows * cols, scale, (0.3, 3.3)):
        if height < rows and width < cols:
            top, left = int(draw[21] * (rows - height + 1)), int(draw[22] * (cols - width + 1))
            return v2.erase(image, top, left, height, width, torch.zeros(()))
    return image


@pytest.mark.parametrize("scale", [(0.02, 0.33), (0.5, 1.0)], ids=["usual", "seldom fits"])
def test_the_first_try_that_is_smaller_than_the_image_is_erased(scale: tuple[float, float]) -> None:
    images, draws = torch.rand(300, 3, 8, 14) + 0.5, some_draws(300, ERASING_DRAWS)
    pairs = zip(images, draws.tolist(), strict=True)
    expected = torch.stack([erase_slowly(image, draw, scale) for image, draw in pairs])
    assert torch.equal(random_erasing(images, draws, probability=0.5, scale=scale), expected)


def test_erasing_sets_one_rectangle_to_zero_and_leaves_the_rest() -> None:
    images = torch.rand(64, 3, 16, 16) + 0.5
    found = random_erasing(images, some_draws(64, ERASING_DRAWS), probability=1.0)
    gone = found == 0
    assert torch.equal(found[~gone], images[~gone])
    boxes = erased_boxes(found)
    area = boxes[:, 2] * boxes[:, 3]
    assert torch.equal(gone[:, 0].sum((1, 2)), area)
    assert torch.equal(gone.all(1), gone.any(1))
    assert float(area.min()) >= 0.01 * 256
    assert float(area.max()) <= 0.4 * 256


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_erasing_happens_with_its_probability(probability: float) -> None:
    draws = some_draws(4000, ERASING_DRAWS)
    found = random_erasing(torch.ones(4000, 1, 8, 8), draws, probability=probability)
    share = (found == 0).flatten(1).any(1).float().mean()
    assert share == pytest.approx(probability, abs=0.02)


# -- all --------------------------------------------------------------------------------------

AREA = {"scale": (0.1, 1.0), "ratio": (0.5, 2.0)}
OPERATIONS = {
    "crop": (lambda x, draws: random_crop(x, draws, padding=2), 2),
    "flip": (random_flip, 1),
    "rotation": (lambda x, draws: random_rotation(x, draws, degrees=30), 1),
    "resized_crop": (lambda x, d: random_resized_crop(x, d, size=(6, 9), **AREA), 22),
    "erasing": (lambda x, draws: random_erasing(x.float(), draws, probability=0.7), 23),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_image_is_changed_alike_alone_and_in_a_batch(name: str) -> None:
    operation, columns = OPERATIONS[name]
    images, draws = noise(9), some_draws(9, columns)
    together = operation(images, draws)
    for row in range(9):
        alone = operation(images[row : row + 1], draws[row : row + 1])
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_images_given_stay_as_they_are(name: str) -> None:
    operation, columns = OPERATIONS[name]
    images = noise(9)
    kept = images.clone()
    operation(images, some_draws(9, columns))
    assert torch.equal(images, kept)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_layout_in_memory_has_no_effect(name: str) -> None:
    operation, columns = OPERATIONS[name]
    images, draws = noise(9), some_draws(9, columns)
    laid_out = images.to(memory_format=torch.channels_last)
    assert torch.equal(operation(laid_out, draws), operation(images, draws))


def test_a_crop_without_padding_takes_any_layout() -> None:
    images = noise(9)
    laid_out = images.to(memory_format=torch.channels_last)
    assert torch.equal(random_crop(laid_out, some_draws(9, 2), padding=0), images)


@pytest.mark.parametrize("name", OPERATIONS)
def test_autocast_changes_no_pixel_by_more_than_a_grey_level(name: str) -> None:
    operation, columns = OPERATIONS[name]
    images, draws = noise(9, height=20, width=30), some_draws(9, columns)
    expected = operation(images, draws)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert worst(operation(images, draws), expected) <= 1


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.2, 0.25), (1.0, 1.0)])
@pytest.mark.parametrize(("height", "width"), [(375, 500), (1, 3), (20, 2), (3000, 4000)])
def test_the_box_of_one_image_is_that_of_a_batch(
    height: int, width: int, ratio: tuple[float, float]
) -> None:
    draws = torch.rand(100, 22, generator=torch.Generator().manual_seed(0))
    shape: dict[str, Any] = {"height": height, "width": width, "scale": (0.08, 1.0), "ratio": ratio}
    expected = resized_crop_boxes(draws, **shape).tolist()
    assert [list(resized_crop_box(row, **shape)) for row in draws] == expected
