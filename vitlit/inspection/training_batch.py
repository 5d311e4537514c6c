"""The first batch of a training, exactly as the model gets it, beside the images as they are.

ImageData -> originals uint8 (B, C, h, w), inputs float (B, C, H, W), targets (B,) or (B, K)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vitlit.data.datamodule import PlainImageData
from vitlit.images.preprocess import Preprocess, match_channels
from vitlit.patches import pair, unpatchify


class TrainingBatch(NamedTuple):
    """originals: uint8 ``(B, C, h, w)``, not augmented; inputs: float ``(B, C, H, W)``, as the
    model gets them; targets: labels ``(B,)``, shares of the classes ``(B, K)``, or numbers."""

    originals: Tensor
    inputs: Tensor
    targets: Tensor


def first_batch(data: PlainImageData, epochs: int | None) -> TrainingBatch:
    """Batch 0 of epoch 0 of ``fit``; epochs: of the whole training, None if it is not known.

    data: set up for fit. Made by the loader and the transformation that train.
    """
    # set as setup does from a trainer, which is not there
    data.augmentation = data.augmentation.of_run(epochs) if epochs else data.augmentation
    batch = next(iter(data.train_dataloader()))
    split = data.splits["train"]
    originals = match_channels(split.images.gather(split.members[batch.sample]), data.in_chans)
    step = data.transform(batch, augment=True)
    size = pair(data.img_size)
    inputs = unpatchify(step.x, data.patch_size, size) if data.patchify else step.x
    return TrainingBatch(originals, inputs, step.y)


def shown_inputs(batch: TrainingBatch, preprocess: Preprocess) -> Tensor:
    """The inputs as pictures ``(B, C, H, W)`` in [0, 1]: normalisation is undone."""
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std)
    )
    values = batch.inputs.float().cpu() * std + mean
    return (1 - values if preprocess.invert else values).clamp(0, 1)
