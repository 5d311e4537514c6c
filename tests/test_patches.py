"""Patches: their order, the way back, the strided convolution and what is refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import Compose, Normalize

from vitlit.errors import InputError
from vitlit.patches import grid_size, pair, patchify, unpatchify


def slow_patchify(image: Tensor, size: int) -> Tensor:
    """Pixel by pixel: patches row by row, in each patch channel, then row, then column."""
    channels, height, width = image.shape
    patches = []
    for top in range(0, height, size):
        for left in range(0, width, size):
            patch = []
            for c in range(channels):
                for y in range(top, top + size):
                    for x in range(left, left + size):
                        patch.append(image[c, y, x])
            patches.append(torch.stack(patch))
    return torch.stack(patches)


@pytest.mark.parametrize(("channels", "size"), [(1, 2), (3, 4)])
def test_patches_come_in_the_order_of_a_slow_loop(channels: int, size: int) -> None:
    image = torch.arange(channels * 8 * 12).reshape(channels, 8, 12)
    assert torch.equal(patchify(image, size), slow_patchify(image, size))


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 1, 12, 4), (3, 8, 12), (2, 5, 3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_unpatchify_inverts_patchify(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images = torch.arange(torch.Size(shape).numel()).remainder(251).reshape(shape).to(dtype)
    assert torch.equal(unpatchify(patchify(images, 4), 4, shape[-2:]), images)


def test_patchify_inverts_unpatchify() -> None:
    patches = torch.randn(2, 6, 3 * 16)
    assert torch.equal(patchify(unpatchify(patches, 4, [8, 12]), 4), patches)


def test_unpatchify_takes_one_number_for_a_square() -> None:
    patches = torch.randn(4, 3 * 16)
    assert torch.equal(unpatchify(patches, 4, 8), unpatchify(patches, 4, (8, 8)))


def test_a_matrix_times_patches_equals_the_strided_convolution() -> None:
    images, filters = torch.randn(2, 3, 8, 12).double(), torch.randn(7, 3, 4, 4).double()
    convolved = F.conv2d(images, filters, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(F.linear(patchify(images, 4), filters.flatten(1)), convolved)


def test_a_single_image_gives_the_patches_it_gives_in_a_batch() -> None:
    images = torch.randn(3, 2, 8, 12)
    assert torch.equal(patchify(images[1], 4), patchify(images, 4)[1])


def test_patches_do_not_depend_on_the_memory_layout() -> None:
    images = torch.randn(2, 3, 8, 12)
    strided = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(patchify(strided, 4), patchify(images, 4))


def test_patchify_is_a_transform_in_a_torchvision_pipeline() -> None:
    image = torch.rand(3, 8, 12)
    transform = Compose([Normalize([0.5] * 3, [0.25] * 3), partial(patchify, patch_size=4)])
    torch.testing.assert_close(transform(image), slow_patchify((image - 0.5) / 0.25, 4))


def test_the_grid_counts_patches_down_then_across() -> None:
    assert grid_size([8, 12], 4) == (2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pair([8, 12, 3]), r"\[8, 12, 3\] is not one number"),
        (lambda: grid_size([28, 30], 4), r"patch_size 4 does not divide the image size 28x30"),
        (lambda: grid_size([30, 28], 4), r"patch_size 4 does not divide the image size 30x28"),
        (lambda: grid_size([0, 8], 4), r"0x8"),
        (lambda: grid_size([-8, 8], 4), r"-8x8"),
        (lambda: grid_size(8, 0), r"patch_size 0 is not positive"),
        (lambda: patchify(torch.zeros(3, 8, 10), 4), r"patch_size 4 .* 8x10"),
        (lambda: patchify(torch.zeros(8, 8), 4), r"\(\.\.\., C, H, W\), got shape \(8, 8\)"),
        (lambda: unpatchify(torch.zeros(5, 16), 4, 8), r"\(5, 16\) do not tile 8x8 .* 4"),
        (lambda: unpatchify(torch.zeros(4, 15), 4, 8), r"\(4, 15\) do not tile 8x8 .* 4"),
    ],
)
def test_a_refusal_names_the_value_and_the_rule(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
