"""The chain that devices apply, on the CPU, against the grouped operations and torchvision's."""

import pytest
import torch
from torch import Tensor
from torchvision_operations import MAGNITUDES, by_torchvision, noise

from vitlit.augment import layers
from vitlit.augment.branch_free import apply_plan, make_plan
from vitlit.augment.operations import OPERATION_NAMES, apply_grouped

GEOMETRIC = {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"}


def chained(images: Tensor, operations: Tensor, magnitude: Tensor) -> Tensor:
    channels, height, width = images.shape[1:]
    plan = make_plan(OPERATION_NAMES, operations, magnitude, (channels, height, width))
    return apply_plan(images, plan)


def every_operation(count: int) -> tuple[Tensor, Tensor]:
    """Numbers and magnitudes: each operation with ``count`` of its magnitudes."""
    picked = [torch.linspace(0, len(MAGNITUDES[n]) - 1, count).long() for n in OPERATION_NAMES]
    magnitude = [MAGNITUDES[n][at] for n, at in zip(OPERATION_NAMES, picked, strict=True)]
    return torch.arange(len(OPERATION_NAMES)).repeat_interleave(count), torch.cat(magnitude)


@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (1, 28, 28), (3, 17, 24), (1, 60, 56), (3, 2, 5), (3, 9, 1)]
)
def test_the_chain_gives_the_pixels_of_the_grouped_operations(shape: tuple[int, int, int]) -> None:
    operations, magnitude = every_operation(8)
    images = noise(len(operations), *shape)
    expected = apply_grouped(images, operations, magnitude)
    assert torch.equal(chained(images, operations, magnitude), expected)


def test_the_chain_gives_torchvisions_pixels() -> None:
    operations, magnitude = every_operation(3)
    images = noise(len(operations), 3, 20, 24)
    rows = zip(operations.tolist(), images, magnitude.tolist(), strict=True)
    expected = torch.stack([by_torchvision(OPERATION_NAMES[k], x, m) for k, x, m in rows])
    differs = (chained(images, operations, magnitude) != expected).flatten(1).float().mean(1)
    exact = torch.tensor([OPERATION_NAMES[k] not in GEOMETRIC for k in operations.tolist()])
    assert differs[exact].max() == 0
    assert differs.mean() <= 1e-4  # sources halfway between two pixels, as in test_operations


def test_a_channel_of_one_value_stays_in_the_chain() -> None:
    values = torch.tensor([0, 7, 255], dtype=torch.uint8)
    images = values.view(1, 3, 1, 1).expand(2, 3, 20, 20)
    names = ("autocontrast", "equalize")
    numbers = torch.tensor([OPERATION_NAMES.index(name) for name in names])
    assert torch.equal(chained(images, numbers, torch.zeros(2)), images)


def test_autocast_changes_no_pixel_of_the_chain() -> None:
    operations, magnitude = every_operation(4)
    images = noise(len(operations), height=20, width=20)
    with torch.autocast("cpu", torch.bfloat16):
        found = chained(images, operations, magnitude)
    assert torch.equal(found, chained(images, operations, magnitude))


@pytest.mark.parametrize(("device", "grouped"), [("cpu", True), ("cuda", False), ("mps", False)])
def test_only_a_processor_groups_images_by_operation(device: str, grouped: bool) -> None:
    assert layers.is_grouping_faster(device) is grouped
