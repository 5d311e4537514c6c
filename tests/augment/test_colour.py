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
    jitter_steps,
    shift_hue,
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
    """torchvision's ColorJitter with these factors, in this order; the hue comes last of them."""
    steps: tuple[Callable[[Tensor, float], Tensor], ...] = (
        tv.adjust_brightness,
        tv.adjust_contrast,
        tv.adjust_saturation,
    )
    orders = list(permutations(range(len(strengths))))
    for i in orders[int(draws[-1] * len(orders))]:
        if i == 3:
            image = tv.adjust_hue(image, float((2 * draws[i] - 1) * strengths[i]))
            continue
        image = steps[i](image, float(1 + (2 * draws[i] - 1) * torch.tensor(strengths[i])))
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_torchvisions_with_the_same_factors_and_order(channels: int) -> None:
    images, draws = noise(40, channels), some_draws(40, 4)
    found = applied(images, jitter_layers(draws, STRENGTHS))
    expected = [jittered(*one, STRENGTHS) for one in zip(images, draws, strict=True)]
    assert torch.equal(found, torch.stack(expected))
    assert len((draws[:, 3] * 6).long().unique()) == 6  # every order


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_with_the_hue_is_torchvisions_too(channels: int) -> None:
    images, draws, strengths = noise(80, channels), some_draws(80, 5), (*STRENGTHS, 0.5)
    found = images
    for name, step in jitter_steps("jitter", draws, strengths).items():
        is_hue = isinstance(step, Tensor)
        assert is_hue == name.endswith("_hue")
        found = shift_hue(found, step) if isinstance(step, Tensor) else applied(found, step)
    expected = [jittered(*one, strengths) for one in zip(images, draws, strict=True)]
    assert torch.equal(found, torch.stack(expected))
    assert len((draws[:, 4] * 24).long().unique()) > 18  # of 24 orders


def test_every_colour_is_turned_as_torchvision_turns_it() -> None:
    levels = torch.tensor([0, 1, 2, 127, 128, 254, 255], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 7, 49)
    shifts = torch.tensor([-0.5, -0.3, -1e-3, 0.0, 1 / 6, 0.25, 0.5])
    found = shift_hue(colours.expand(7, -1, -1, -1), shifts[:, None])
    expected = [tv.adjust_hue(colours[0], shift) for shift in shifts.tolist()]
    assert torch.equal(found, torch.stack(expected))
    assert torch.equal(found[3], colours[0])


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
        ([0.4] * 5, "or four, with that of the hue"),
        ([0.4, 0.4, 0.4, 0.6], "color_jitter 0.6 is not a strength of the hue; give .* to 0.5"),
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
