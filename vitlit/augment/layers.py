"""One operation for each image of a batch, by the way that is faster on the device.

images uint8 (B, C, H, W), operations (B,), magnitude (B,) -> plan (B, k) -> uint8 (B, C, H, W)
"""

import torch
from torch import Tensor

from vitlit.augment.branch_free import apply_plan, make_plan
from vitlit.augment.operations import OPERATION_NAMES, apply_grouped

Shape = tuple[int, int, int]  # of an image: (C, H, W)
GROUPED_COLUMNS = 2  # of a plan of images that are grouped: operation, magnitude


def is_grouping_faster(device: str) -> bool:
    """Whether images are grouped by operation: on a CPU, where a launch costs little.

    Both ways give the same pixels. Grouping does less arithmetic; the chain launches fewer kernels,
    and has no branches.
    """
    return device == "cpu"


def layer_plan(operations: Tensor, magnitude: Tensor, shape: Shape, device: str) -> Tensor:
    """What :func:`apply_layer` does to images of this shape, (C, H, W), on this type of device.

    Float32 ``(B, 2)`` (operation, magnitude) where grouping is faster, else ``(B, 15)``.
    """
    if is_grouping_faster(device):
        return torch.stack([operations.float(), magnitude], dim=1)
    return make_plan(OPERATION_NAMES, operations, magnitude, shape)


def apply_layer(images: Tensor, plan: Tensor) -> Tensor:
    """Do to each image what its row of the plan says, see :func:`layer_plan`."""
    if plan.shape[1] == GROUPED_COLUMNS:
        return apply_grouped(images, plan[:, 0].long(), plan[:, 1])
    return apply_plan(images, plan)


def apply_operations(images: Tensor, operations: Tensor, magnitude: Tensor) -> Tensor:
    """Apply operation ``OPERATION_NAMES[operations[i]]`` with ``magnitude[i]`` to image i.

    operations: int64, magnitude: float32, both ``(B,)`` on the CPU. The host never waits for the
    images' device.
    """
    channels, height, width = images.shape[1:]
    device = images.device
    plan = layer_plan(operations, magnitude, (channels, height, width), device.type)
    return apply_layer(images, plan.to(device, non_blocking=True))
