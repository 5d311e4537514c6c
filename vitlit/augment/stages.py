"""What the random stages do to a batch once their draws are known: tensors only, no branches.

uint8 (B, C, h, w), plan of each stage float32 (B, k) -> float (B, C, H, W)

On a GPU this is one graph for the compiler: the host decides what happens to each image, sends one
small tensor, and the device does the rest.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from vitlit.augment.colour import HUE_ENDING, gaussian_blur, shift_hue
from vitlit.augment.geometric import crop_at, erase, mirror, resize_boxes, rotate_by
from vitlit.augment.layers import Shape, apply_layer, layer_plan
from vitlit.augment.mixing import mix_as_planned, soft_targets
from vitlit.augment.policies import Layer
from vitlit.augment.turns import flip_vertically, turn_quarters

Plan = Mapping[str, Tensor]  # stage -> what happens to each image (B, k)
Stage = Literal[
    "resized_crop", "crop", "flip", "rotation", "auto_augment", "erasing", "mix",
    "vertical_flip", "quarter_turns", "three_augment", "color_jitter", "grayscale", "blur",
]  # fmt: skip
# A stage's place is part of its address: new stages go to the end, or every seed changes its draws.
STAGES: tuple[str, ...] = get_args(Stage)
BLURS = ("three_augment_blur", "blur")  # the parts of a plan that are no layers of operations


def policy_plan(name: str, layers: list[Layer], shape: Shape, device: str) -> Plan:
    """The operations of a stage in turn, for images (C, H, W) on this type of device."""
    if not layers:
        return {}
    # all at once: the host spends its time on the number of calls
    operations, magnitude = (torch.cat(parts) for parts in zip(*layers, strict=True))
    plans = layer_plan(operations, magnitude, shape, device).chunk(len(layers))
    return {f"{name}/{turn}": plan for turn, plan in enumerate(plans)}


def send_plan(plan: Plan, device: torch.device) -> Plan:
    """The plan on the device: one copy for all stages, which nothing waits for."""
    if device.type == "cpu" or not plan:
        return plan
    packed = torch.cat(list(plan.values()), dim=1)
    if device.type == "cuda":  # copies from other memory wait for the device
        packed = torch.empty(packed.shape, pin_memory=True).copy_(packed)
    columns = [part.shape[1] for part in plan.values()]
    parts = torch.split(packed.to(device, non_blocking=True), columns, dim=1)
    return dict(zip(plan, parts, strict=True))


def apply_stages(
    x: Tensor,
    y: Tensor,
    plan: Plan,
    *,
    size: tuple[int, int],
    padding: int,
    num_classes: int | None,
    normalise: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Do what the plan says to images uint8 ``(B, C, h, w)`` and labels ``(B,)``, and normalise.

    size: (height, width) of a resized crop; padding: of the crop; num_classes: columns of soft
    targets, None for labels.
    """
    # Images stay uint8 until they are normalised: a quarter of the memory of float32, and the
    # operations of the policies are defined on bytes.
    if "resized_crop" in plan:
        x = resize_boxes(x, plan["resized_crop"], size)
    if "crop" in plan:
        x = crop_at(x, plan["crop"], padding)
    if "flip" in plan:
        x = mirror(x, plan["flip"])
    if "vertical_flip" in plan:
        x = flip_vertically(x, plan["vertical_flip"])
    if "quarter_turns" in plan:
        x = turn_quarters(x, plan["quarter_turns"])
    if "rotation" in plan:
        x = rotate_by(x, plan["rotation"])
    for name in plan:
        if name in BLURS:
            x = gaussian_blur(x, plan[name])
        elif name.endswith(HUE_ENDING):
            x = shift_hue(x, plan[name])
        elif "/" in name:  # a layer of operations
            x = apply_layer(x, plan[name])
    x = normalise(x)
    if "erasing" in plan:  # after normalising: erased pixels are 0, the mean
        x = erase(x, plan["erasing"])
    if num_classes is None:
        return x, y
    if "mix" in plan:
        return mix_as_planned(x, y, plan["mix"], num_classes=num_classes)
    return x, soft_targets(y, num_classes, x.dtype)
