"""Sets that fit are held on the GPU and gathered there; the loader sends numbers of rows only.

Order: indices (B,) -> rows int64 (B,) -> on the device uint8 (B, C, h, w)
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitlit.data.batch import Batch, Order
from vitlit.data.splits import Split
from vitlit.images.image_store import MemoryImages

if TYPE_CHECKING:  # what does not train starts without Lightning
    import pytorch_lightning as pl

MEMORY_SHARE = 0.1  # of the GPU's free memory; the model and its activations need the rest


class RowSplit(Split):
    """A split whose batches hold rows of a :class:`ResidentPixels` in place of pixels."""

    images: MemoryImages

    def _gather(self, order: Order) -> Tensor:
        return self.images.rows(self.members[order.indices])


def fits(images: object, device: torch.device) -> bool:
    """Whether the images are in memory, and a small share of the device's memory would hold them.

    Only on GPUs: on a CPU a copy would gain nothing.
    """
    if device.type != "cuda" or not torch.cuda.is_available() or type(images) is not MemoryImages:
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return images.pixels.nbytes <= MEMORY_SHARE * free


class ResidentPixels:
    """Pixels of image sets on a device, each copied there once, by the splits that share them."""

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Tensor]] = []  # in memory, on the device

    def hold(self, split: Split, trainer: "pl.Trainer | None") -> Split:
        """The split; or, where the trainer's device can hold its images, one with rows for pixels.

        Where the split trains or validates: :meth:`gather` must follow.
        """
        if trainer is None or type(split) is not Split:
            return split
        device = trainer.strategy.root_device
        if not fits(split.images, device):
            return split
        self._copy_of(split.images.pixels, device)  # type: ignore[attr-defined]
        return RowSplit(split.images, split.members)

    def gather(self, batch: Batch, split: Split | None) -> Batch:
        """A batch with images ``(B, C, h, w)``: it may have rows ``(B,)`` of the split instead."""
        if batch.x.ndim != 1 or split is None:
            return batch
        pixels: Tensor = split.images.pixels  # type: ignore[attr-defined]
        copied = self._copy_of(pixels, batch.x.device)
        return batch._replace(x=copied.index_select(0, batch.x))

    def _copy_of(self, pixels: Tensor, device: torch.device) -> Tensor:
        for held, copied in self._held:
            if held is pixels and copied.device == device:
                return copied
        self._held.append((pixels, pixels.to(device)))
        return self._held[-1][1]
