"""Samplers: which samples make which batch, and the address of each batch.

(seed, epoch) -> Orders; one Order -> one Batch

The samplers are DistributedSamplers, because Lightning does not replace those and tells them the
epoch. They yield whole batches (DataLoader with ``batch_size=None``), each with its address.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from vitlit.data.batch import Batch, Order
from vitlit.seeding import Stream, address, permutation


class TrainOrder(DistributedSampler[Any]):
    """Shuffled global batches, of which every process takes its slice.

    The global batches depend on the seed and the epoch alone, so two processes with 16 samples each
    train like one with 32. The incomplete last one is left out: DDP hangs if processes have
    different numbers of batches. A set smaller than one global batch is repeated until it fills
    one.
    """

    def __init__(self, size: int, *, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
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
        order = permutation(address(self.seed, Stream.ORDER, self.epoch), self.size)
        total = len(self) * self.batch_size * self.num_replicas
        order = order.repeat(-(-total // self.size))[:total]  # -(-a // b) rounds up
        mine = order.view(len(self), self.num_replicas, self.batch_size)[:, self.rank]
        valid = torch.ones(self.batch_size, dtype=torch.bool)
        epoch, first = self._resumed
        for step in range(first if epoch == self.epoch else 0, len(self)):
            # with the rank, so that processes do not drop the same units
            key = address(self.seed, Stream.DROPOUT, self.epoch, step, self.rank)
            yield Order(mine[step], valid, self.epoch, key)


class LateLoader(DataLoader[Batch]):
    """A loader that starts when the first batch is asked for, not when its iterator is made."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator: nothing runs before next(). Lightning makes the iterator of the first epoch
        # before it restores a checkpoint, and keeps it (Lightning issue 20550), so workers would
        # load the batches of an epoch that is over.
        yield from super().__iter__()


class EvalOrder(DistributedSampler[Any]):
    """Every sample once, in order; rows that pad all processes to equal length are not valid."""

    def __init__(self, size: int, *, batch_size: int, rank: int, world: int) -> None:
        self.size, self.batch_size = size, batch_size
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
        for start in range(0, self.share, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield Order(indices[rows], valid[rows], 0, 0)  # evaluation draws nothing
