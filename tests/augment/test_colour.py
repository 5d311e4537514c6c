"""Colour jitter, grayscale, blur, 3-Augment and turns do what torchvision's operations do."""

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv
from torchvision_operations import noise

from vitlit.augment.colour import (
    blur_sigmas,
    colour_settings,
    gaussian_blur,
    grayscale_layers,
    jitter_layers,
    three_layers,
    three_sigmas,
)
from vitlit.augment.layers import apply_operations
from vitlit.augment.policies import Layer
from vitlit.augment.turns import (
    flip_vertically,
    quarter_turn_plan,
    turn_quarters,
    vertical_flip_plan,
)
from vitlit.errors import InputError

STRENGTHS = (0.4, 0.3, 0.6)


def some_draws(count: int, columns: int) -> Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(1))


def applied(images: Tensor, layers: list[Layer]) -> Tensor:
    for operations, magnitude in layers:
        images = apply_operations(images, operations, magnitude)
    return images


def jittered(image: Tensor, draws: Tensor, strengths: tuple[float, ...]) -> Tensor:
    """torchvision's ColorJitter with these factors, in this order."""
    steps: tuple[Callable[[Tensor, float], Tensor], ...] = (
        tv.adjust_brightness,
        tv.adjust_contrast,
        tv.adjust_saturation,
    )
    order = list(permutations(range(3)))[int(draws[3] * 6)]
    for i in order:
        image = steps[i](image, float(1 + (2 * draws[i] - 1) * torch.tensor(strengths[i])))
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_torchvisions_with_the_same_factors_and_order(channels: int) -> None:
    images, draws = noise(40, channels), some_draws(40, 4)
    found = applied(images, jitter_layers(draws, STRENGTHS))
    expected = [jittered(*one, STRENGTHS) for one in zip(images, draws, strict=True)]
    assert torch.equal(found, torch.stack(expected))
    assert len((draws[:, 3] * 6).long().unique()) == 6  # every order


def test_grayscale_is_torchvisions_for_the_chosen_images() -> None:
    images, draws = noise(20), some_draws(20, 1)
    chosen = draws[:, :, None, None] < 0.3
    expected = torch.where(chosen, tv.rgb_to_grayscale(images, 3), images)
    assert torch.equal(applied(images, grayscale_layers(draws, 0.3)), expected)
    assert 0 < chosen.sum() < 20


@pytest.mark.parametrize(("height", "width", "kernel"), [(9, 12, 9), (3, 5, 5), (32, 32, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_torchvisions_of_the_same_width(
    channels: int, height: int, width: int, kernel: int
) -> None:
    images = noise(12, channels, height, width)
    sigmas = blur_sigmas(some_draws(12, 2), 0.7)
    expected = torch.stack(
        [
            tv.gaussian_blur(image, [kernel] * 2, [sigma] * 2) if sigma else image
            for image, sigma in zip(images, sigmas[:, 0].tolist(), strict=True)
        ]
    )
    found = gaussian_blur(images, sigmas)
    # it sums along one axis, then the other; torchvision over both: a half may round otherwise
    apart = (found.int() - expected.int()).abs()
    assert apart.max() <= 1
    assert apart.float().mean() < 1e-3
    assert torch.equal(found[sigmas[:, 0] == 0], images[sigmas[:, 0] == 0])
    assert 0 < (sigmas == 0).sum() < 12


def test_three_augment_makes_each_image_grey_solarised_or_blurred() -> None:
    images, draws = noise(30), some_draws(30, 6)
    found = gaussian_blur(applied(images, three_layers(draws)), three_sigmas(draws))
    which = (draws[:, 0] * 3).long()
    sigmas = 0.1 + 1.9 * draws[:, 1]
    for i, image in enumerate(images):
        choices = (
            lambda x: tv.rgb_to_grayscale(x, 3),
            lambda x: tv.solarize(x, 128),
            lambda x, i=i: tv.gaussian_blur(x, [9, 9], [float(sigmas[i])] * 2),
        )
        assert (found[i].int() - choices[int(which[i])](image).int()).abs().max() <= (which[i] == 2)
    assert which.bincount().tolist() == [8, 9, 13]


def test_vertical_flips_are_torchvisions() -> None:
    images, draws = noise(8), some_draws(8, 1)
    expected = torch.where(draws[:, :, None, None] < 0.5, tv.vflip(images), images)
    assert torch.equal(flip_vertically(images, vertical_flip_plan(draws)), expected)
    assert 0 < (draws < 0.5).sum() < 8


def test_quarter_turns_are_torchvisions() -> None:
    images, draws = noise(12, 3, 7, 7), some_draws(12, 1)
    turns = quarter_turn_plan(draws)
    expected = [
        tv.rotate(image, 90.0 * int(turn)) for image, turn in zip(images, turns, strict=True)
    ]
    assert torch.equal(turn_quarters(images, turns), torch.stack(expected))
    assert turns.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("jitter", "message"),
    [
        ([0.4, 0.4], "color_jitter \\[0.4, 0.4\\] needs three strengths"),
        ([0.4, 0.4, 1.5], "color_jitter 1.5 is not a strength"),
        ([0.4, float("nan"), 0.5], "color_jitter nan is not a strength"),
    ],
)
def test_wrong_strengths_are_refused(jitter: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        colour_settings(jitter, 0.0, 0.0, three=False)
    assert caught.value.arguments == ("color_jitter",)


def test_three_augment_has_the_usual_jitter_unless_others_are_given() -> None:
    assert colour_settings(None, 0.0, 0.0, three=True).jitter == (0.3, 0.3, 0.3)
    assert colour_settings([0.1, 0.2, 0.4], 0.0, 0.0, three=True).jitter == (0.1, 0.2, 0.4)
    assert colour_settings(None, 0.0, 0.0, three=False).jitter == ()
