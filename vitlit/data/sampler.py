"""Samplers: which samples make which batch, and the address of each batch.

(seed, epoch) -> Orders; one Order -> one Batch

The samplers are DistributedSamplers, because Lightning does not replace those and tells them the
epoch. They yield whole batches (DataLoader with ``batch_size=None``), each with its address.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from vitlit.data.batch import Batch, Order
from vitlit.errors import InputError
from vitlit.seeding import Stream, address, permutation


class TrainOrder(DistributedSampler[Any]):
    """Shuffled global batches, of which every process takes its slice.

    The global batches depend on the seed and the epoch alone, so two processes with 16 samples each
    train like one with 32. The incomplete last one is left out: DDP hangs if processes have
    different numbers of batches. A set smaller than one global batch is repeated until it fills
    one.

    repeats: copies of each image in a batch (repeated augmentation, Hoffer et al., 2020), which has
    as many times fewer images. An epoch keeps its number of batches, and leaves out other images in
    each, as in DeiT. Raises InputError if ``batch_size`` is no multiple of it.

    shards, window: the shard of each sample, int64 ``(size,)``, and how many shards are mixed at a
    time; None mixes all samples.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        repeats: int = 1,
        shards: Tensor | None = None,
        window: int = 1,
    ) -> None:
        if batch_size % repeats:
            raise InputError(
                f"repeated_augment {repeats} does not divide batch_size {batch_size}; give "
                f"{batch_size // repeats * repeats or repeats} images, or another number of copies",
                argument=("repeated_augment", "batch_size"),
            )
        self.size, self.batch_size, self.seed, self.repeats = size, batch_size, seed, repeats
        self.shards, self.window = shards, window
        # Without super().__init__, which needs the data set. These are the attributes that others
        # read, and set_epoch writes epoch.
        self.rank, self.num_replicas, self.epoch = rank, world, 0
        self._resumed = (0, 0)

    def __len__(self) -> int:
        """Batches of a whole epoch, even if it is resumed: progress and schedules count all."""
        return max(1, self.size // (self.batch_size * self.num_replicas))

    def resume(self, epoch: int, batch: int) -> None:
        """Skip the first ``batch`` batches of this epoch, which were trained on before."""
        self.epoch, self._resumed = epoch, (epoch, batch)

    def __iter__(self) -> Iterator[Order]:
        order = self._order(address(self.seed, Stream.ORDER, self.epoch))
        count = self.batch_size // self.repeats  # images, each of which is in the batch repeatedly
        total = len(self) * count * self.num_replicas
        order = order.repeat(-(-total // self.size))[:total]  # -(-a // b) rounds up
        # All images, then all again: mixing takes the neighbour, which should be another image.
        mine = order.view(len(self), self.num_replicas, count)[:, self.rank].repeat(1, self.repeats)
        copies = torch.arange(self.repeats).repeat_interleave(count) if self.repeats > 1 else None
        valid = torch.ones(self.batch_size, dtype=torch.bool)
        epoch, first = self._resumed
        for step in range(first if epoch == self.epoch else 0, len(self)):
            # with the rank, so that processes do not drop the same units
            key = address(self.seed, Stream.DROPOUT, self.epoch, step, self.rank)
            yield Order(mine[step], valid, self.epoch, key, copies)

    def _order(self, key: int) -> Tensor:
        """All samples in the order of an epoch, int64 ``(size,)``."""
        order = permutation(key, self.size)
        if self.shards is None:
            return order
        # Stable: the samples of one window stay in the order that was drawn.
        return order[window_of(self.shards, self.window, key)[order].argsort(stable=True)]


def window_of(shards: Tensor, window: int, key: int) -> Tensor:
    """The turn of each sample in an epoch: that of the ``window`` shards it is mixed with.

    shards: of each sample, int64 ``(n,)``; the shards' order depends on the key.
    """
    turns = permutation(address(key, 1), int(shards.max()) + 1) // window
    return turns[shards]


class LateLoader(DataLoader[Batch]):
    """A loader that starts when the first batch is asked for, not when its iterator is made."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator: nothing runs before next(). Lightning makes the iterator of the first epoch
        # before it restores a checkpoint, and keeps it (Lightning issue 20550), so workers would
        # load the batches of an epoch that is over.
        yield from super().__iter__()


class EvalOrder(DistributedSampler[Any]):
    """Every sample once, in order; rows that pad all processes to equal length are not valid.

    mixed: in a random order instead, the same in every run. The first batches are then a fair
    sample of all: data sets are often sorted by class.
    """

    def __init__(
        self, size: int, *, batch_size: int, rank: int, world: int, mixed: bool = False
    ) -> None:
        self.size, self.batch_size, self.mixed = size, batch_size, mixed
        self.rank, self.num_replicas, self.epoch = rank, world, 0

    @property
    def share(self) -> int:
        """Rows for each process, padding included."""
        return -(-self.size // self.num_replicas)

    def __len__(self) -> int:
        return -(-self.share // self.batch_size)

    def __iter__(self) -> Iterator[Order]:
        # Equal shares: with fewer batches in one process, the others would wait for it forever.
        places = torch.arange(self.share) * self.num_replicas + self.rank
        valid = places < self.size
        indices = places.clamp(max=self.size - 1)  # padding repeats the last sample
        if self.mixed:
            # A seed of its own, not the run's: two runs are scored on the same images.
            indices = permutation(address(0, Stream.EVALUATION), self.size)[indices]
        for start in range(0, self.share, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield Order(indices[rows], valid[rows], 0, 0)  # evaluation draws nothing
