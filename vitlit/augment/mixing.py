"""MixUp and CutMix: each image is mixed with its neighbour in the batch, targets are soft.

images float (B, C, H, W), labels int64 (B,) -> images (B, C, H, W), targets float (B, num_classes)

The neighbour of an image is the one before it; the neighbour of the first is the last. Each image
has its own coefficient, while the papers draw one for the whole batch.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def mix(
    images: Tensor,
    labels: Tensor,
    key: int,
    *,
    num_classes: int,
    mixup: float,
    cutmix: float,
    probability: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Blend images (MixUp, Zhang et al., 2018), or paste a rectangle of one into another (CutMix,
    Yun et al., 2019), and mix their labels in the same proportions.

    key: from :func:`vitlit.seeding.address`, decides all draws; mixup, cutmix: alpha of the
    Beta(alpha, alpha) from which an image's own share is drawn, 0 for never; with both, each image
    takes one of them, equally likely; probability: share of the images that are mixed at all.
    CutMix's rectangle has its centre anywhere in the image and is clipped at the border; the
    labels are mixed by its clipped area.
    """
    if not (mixup or cutmix) or probability == 0:
        return images, soft_targets(labels, num_classes, images.dtype)
    size = (images.shape[2], images.shape[3])
    plan = mixing_plan(key, len(labels), size, (mixup, cutmix), probability)
    plan = plan.to(images.device, non_blocking=True)
    return mix_as_planned(images, labels, plan, num_classes=num_classes)


def soft_targets(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Labels int64 ``(B,)`` as shares of the classes ``(B, num_classes)``: one is 1.

    Targets of other tasks have columns already, ``(B, k)``, and keep them.
    """
    columns = F.one_hot(labels, num_classes) if labels.ndim == 1 else labels
    return columns.to(dtype)


def mix_as_planned(
    images: Tensor, labels: Tensor, plan: Tensor, *, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Mix images and labels as the plan ``(B, 6)`` of :func:`mixing_plan` says."""
    targets = soft_targets(labels, num_classes, images.dtype)
    height, width = images.shape[2:]
    share, opacity, *box = plan.unbind(1)  # each (B,)
    top, bottom, left, right = (side[:, None] for side in box)
    rows = torch.arange(height, device=images.device)
    cols = torch.arange(width, device=images.device)
    in_rows, in_cols = (rows >= top) & (rows < bottom), (cols >= left) & (cols < right)
    inside = in_rows[:, :, None] & in_cols[:, None]  # (B, H, W)
    own = torch.where(inside, 0.0, opacity[:, None, None])[:, None].to(images.dtype)  # (B, 1, H, W)
    # roll, not a permutation: batches are shuffled already, and of two images none meets itself
    mixed = torch.lerp(images.roll(1, 0), images, own)
    shares = share[:, None].to(targets.dtype)
    return mixed, torch.lerp(targets.roll(1, 0), targets, shares)


def mixing_plan(
    key: int, batch: int, size: tuple[int, int], alphas: tuple[float, float], probability: float
) -> Tensor:
    """What happens to each image: float32 ``(B, 6)`` on the CPU.

    Columns: the image's own share of the target; its opacity outside the rectangle; the
    rectangle's top, bottom, left and right in pixels.
    """
    # NumPy's generator: torch.distributions draws Beta from the global generator alone.
    # On the CPU, so that one small tensor goes to the device and nothing waits for it.
    rng = np.random.Generator(np.random.Philox(key=key))
    draws = rng.random((batch, 4))  # mixed at all, which way, centre of the rectangle
    blend, paste = (rng.beta(a, a, batch) if a else np.ones(batch) for a in alphas)
    is_mixed = draws[:, 0] < probability
    is_pasted = (alphas[0] == 0) | ((draws[:, 1] < 0.5) & (alphas[1] > 0))
    blend = np.where(is_mixed & ~is_pasted, blend, 1.0)
    paste = np.where(is_mixed & is_pasted, paste, 1.0)
    centre = (draws[:, 2:] * size).astype(int)  # (B, 2)
    half = (0.5 * np.sqrt(1 - paste)[:, None] * size).astype(int)  # CutMix, eq. 2; 0 for no paste
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half, size)
    area = (high - low).prod(axis=1) / (size[0] * size[1])
    # One of the two factors is always 1: an image takes either MixUp or CutMix.
    columns = [blend * (1 - area), blend, low[:, 0], high[:, 0], low[:, 1], high[:, 1]]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))
