"""What travels from the data to the model: a batch, and the address of its random draws.

Order: indices (B,) -> Batch: uint8 (B, C, h, w) -> float (B, N, C*P*P) or (B, C, H, W)
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vitlit.seeding import BatchAddress

COPY_STEP = 1 << 40  # more than there are samples in any set


class Order(NamedTuple):
    """The request for a batch: indices int64 and valid bool ``(B,)``, and the batch's address.

    Samplers yield it. A loader knows its epoch and key from it even in a worker process. copies:
    int64 ``(B,)``, which copy of its image each row is, from 0; None if each is the only one.
    """

    indices: Tensor
    valid: Tensor
    epoch: int
    key: int
    copies: Tensor | None = None

    @property
    def drawn(self) -> Tensor:
        """What the random draws of each row are a function of: int64 ``(B,)``."""
        return drawn_index(self.indices, self.copies)


class Batch(NamedTuple):
    """A batch as the loader yields it, and as the steps of the model get it.

    x: uint8 ``(B, C, h, w)`` from the loader; in a step float patches ``(B, N, C*P*P)`` or images
    ``(B, C, H, W)``. y: labels int64 ``(B,)``, or soft targets float ``(B, num_classes)`` after
    mixing. sample: int64 ``(B,)``, each image's index in its split. valid: bool ``(B,)``, False for
    rows that only pad an evaluation and for files that cannot be read. epoch, key: the address of
    the batch. bad: sample and reason for each file that cannot be read. copies: as in an Order.
    """

    x: Tensor
    y: Tensor
    sample: Tensor
    valid: Tensor
    epoch: int
    key: int
    bad: Sequence[tuple[int, str]] = ()
    copies: Tensor | None = None

    @property
    def address(self) -> BatchAddress:
        """What the random draws of this batch are functions of."""
        return BatchAddress(drawn_index(self.sample, self.copies), self.epoch, self.key)

    def on(self, device: torch.device) -> "Batch":
        """The batch with images, labels and ``valid`` there, without waiting for the copies."""
        parts = (self.x, self.y, self.valid)
        x, y, valid = (part.to(device, non_blocking=True) for part in parts)
        return self._replace(x=x, y=y, valid=valid)


def drawn_index(sample: Tensor, copies: Tensor | None) -> Tensor:
    """A number of its own for each copy of each sample; the sample itself for the first copy."""
    return sample if copies is None else sample + copies * COPY_STEP
