"""Batched operations against torchvision's, one image at a time with the same magnitude."""

import pytest
import torch
from torch import Tensor
from torchvision_operations import MAGNITUDES, by_torchvision, noise

from vitlit.augment import operations
from vitlit.augment.layers import apply_operations
from vitlit.augment.operations import OPERATION_NAMES

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
SHAPES = [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 17, 24), (3, 31, 20), (1, 60, 56)]


def apply(name: str, images: Tensor, magnitude: Tensor) -> Tensor:
    result: Tensor = getattr(operations, name)(images, magnitude)
    return result


def expected(name: str, images: Tensor, magnitude: Tensor) -> Tensor:
    pairs = zip(images, magnitude.tolist(), strict=True)
    return torch.stack([by_torchvision(name, image, value) for image, value in pairs])


def share_that_differs(name: str, images: Tensor, magnitude: Tensor) -> float:
    return (
        (apply(name, images, magnitude) != expected(name, images, magnitude)).float().mean().item()
    )


def test_every_operation_is_compared() -> None:
    assert set(OPERATION_NAMES) == set(MAGNITUDES)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(set(OPERATION_NAMES) - set(GEOMETRIC)))
def test_a_pixel_operation_equals_torchvisions(name: str, shape: tuple[int, int, int]) -> None:
    magnitude = MAGNITUDES[name]
    assert share_that_differs(name, noise(len(magnitude), *shape), magnitude) == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", GEOMETRIC)
def test_a_geometric_operation_equals_torchvisions(name: str, shape: tuple[int, int, int]) -> None:
    # Sources halfway between two pixels may fall on either side, since torchvision's matrix product
    # rounds as the processor's library does: 7 pixels in 10,000 with AMX. A magnitude next to it
    # moves these pixels, and hardly any other.
    magnitude = torch.cat([MAGNITUDES[name], MAGNITUDES[name] / 3.3])
    images = noise(len(magnitude), *shape)
    found = apply(name, images, magnitude)
    nudges = (0.0,) if name.startswith("translate") else (0.0, -1e-5, 1e-5)
    differs = torch.stack([found != expected(name, images, magnitude * (1 + n)) for n in nudges])
    assert differs[0].float().mean() <= 1e-3
    assert differs.all(0).float().mean() <= 1e-4


@pytest.mark.parametrize("name", OPERATION_NAMES)
def test_an_operation_treats_each_image_as_if_it_were_alone(name: str) -> None:
    magnitude = MAGNITUDES[name]
    images = noise(len(magnitude))
    rows = range(len(magnitude))
    alone = [apply(name, images[i : i + 1], magnitude[i : i + 1]) for i in rows]
    assert torch.equal(apply(name, images, magnitude), torch.cat(alone))


@pytest.mark.parametrize("name", OPERATION_NAMES)
def test_an_operation_leaves_its_input_alone(name: str) -> None:
    images, magnitude = noise(8), MAGNITUDES[name][:8]
    before = images.clone()
    apply(name, images, magnitude)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", OPERATION_NAMES)
def test_an_operation_on_no_images_gives_none(name: str) -> None:
    result = apply(name, noise(0), torch.zeros(0))
    assert (result.shape, result.dtype) == ((0, 3, 9, 12), torch.uint8)


@pytest.mark.parametrize("name", OPERATION_NAMES)
def test_the_order_of_the_bytes_in_memory_does_not_matter(name: str) -> None:
    images, magnitude = noise(8), MAGNITUDES[name][:8]
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(apply(name, last, magnitude), apply(name, images, magnitude))


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_a_channel_of_one_value_stays(name: str) -> None:
    images = torch.tensor([0, 7, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 20, 20)
    assert torch.equal(apply(name, images, torch.zeros(2)), images)


@pytest.mark.parametrize("size", [(2, 9), (9, 1), (1, 1)])
def test_sharpness_leaves_images_without_inner_pixels(size: tuple[int, int]) -> None:
    images = noise(3, 3, *size)
    assert torch.equal(operations.sharpness(images, torch.full((3,), 0.5)), images)


def test_autocast_changes_no_pixel() -> None:
    magnitude = MAGNITUDES["rotate"]
    images = noise(len(magnitude), height=40, width=40)
    plain = [
        apply(name, images, magnitude / 140) for name in OPERATION_NAMES if name != "posterize"
    ]
    with torch.autocast("cpu", torch.bfloat16):
        cast = [
            apply(name, images, magnitude / 140) for name in OPERATION_NAMES if name != "posterize"
        ]
    assert torch.equal(torch.stack(cast), torch.stack(plain))


def test_each_image_gets_its_own_operation() -> None:
    count = 10 * len(OPERATION_NAMES)
    numbers = torch.randperm(count, generator=torch.Generator().manual_seed(1)) % len(
        OPERATION_NAMES
    )
    magnitude = torch.stack([MAGNITUDES[OPERATION_NAMES[number]][-3] for number in numbers])
    images = noise(count)
    rows = zip(images.split(1), numbers.tolist(), magnitude.split(1), strict=True)
    expected = torch.cat(
        [apply(OPERATION_NAMES[number], image, value) for image, number, value in rows]
    )
    assert torch.equal(apply_operations(images, numbers, magnitude), expected)


@pytest.mark.parametrize("name", OPERATION_NAMES)
def test_a_batch_may_need_a_single_operation(name: str) -> None:
    magnitude = MAGNITUDES[name]
    images = noise(len(magnitude))
    numbers = torch.full((len(magnitude),), OPERATION_NAMES.index(name))
    found = apply_operations(images, numbers, magnitude)
    assert torch.equal(found, apply(name, images, magnitude))
