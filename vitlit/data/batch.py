"""What travels from the data to the model: a batch, and the address its randomness follows from."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from vitlit.seeding import BatchAddress


class Order(NamedTuple):
    """What a batch is to hold: indices and valid ``(B,)``, and the batch's address."""

    indices: Tensor
    valid: Tensor
    epoch: int
    key: int


class Batch(NamedTuple):
    """What travels to the model, and is given to its steps.

    x: uint8 ``(B, C, h, w)`` from the loader, float patches ``(B, N, C*P*P)`` or images
    ``(B, C, H, W)`` in a step; y: int64 ``(B,)``; sample: int64 ``(B,)``, its place in the
    split; valid: bool ``(B,)``, False for rows that only fill up a batch of an evaluation, and
    for files that cannot be read; epoch and key: the address of the batch; bad: sample and
    reason for each of those files.
    """

    x: Tensor
    y: Tensor
    sample: Tensor
    valid: Tensor
    epoch: int
    key: int
    bad: Sequence[tuple[int, str]] = ()

    @property
    def address(self) -> BatchAddress:
        return BatchAddress(self.sample, self.epoch, self.key)
