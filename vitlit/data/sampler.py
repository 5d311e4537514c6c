"""Which samples make which batch, and the address of each batch.

(seed, epoch) -> orders of batches; one Order -> one Batch

Lightning leaves a DistributedSampler alone and tells it the epoch, so the samplers are that. They
yield whole batches (DataLoader with ``batch_size=None``), each with its address.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from vitlit.data.batch import Batch, Order
from vitlit.seeding import Stream, address, permutation


class TrainOrder(DistributedSampler[Any]):
    """Shuffled global batches, of which every process takes its slice.

    The incomplete last global batch is left out; a set smaller than one is drawn again from the
    start until it fills one. The global batch depends on the seed and the epoch alone, so two
    processes with 16 samples each train like one with 32.
    """

    def __init__(self, size: int, *, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.num_replicas, self.epoch = rank, world, 0
        self._resumed = (0, 0)

    def __len__(self) -> int:
        """Batches of a whole epoch, one that is resumed too."""
        return max(1, self.size // (self.batch_size * self.num_replicas))

    def resume(self, epoch: int, batch: int) -> None:
        """Leave out the first batches of this one epoch, which were trained on before."""
        self.epoch, self._resumed = epoch, (epoch, batch)

    def __iter__(self) -> Iterator[Order]:
        order = permutation(address(self.seed, Stream.ORDER, self.epoch), self.size)
        total = len(self) * self.batch_size * self.num_replicas
        order = order.repeat(-(-total // self.size))[:total]
        mine = order.view(len(self), self.num_replicas, self.batch_size)[:, self.rank]
        valid = torch.ones(self.batch_size, dtype=torch.bool)
        epoch, first = self._resumed
        for step in range(first if epoch == self.epoch else 0, len(self)):
            key = address(self.seed, Stream.DROPOUT, self.epoch, step, self.rank)
            yield Order(mine[step], valid, self.epoch, key)


class LateLoader(DataLoader[Batch]):
    """Takes the first order when the first batch is asked for, not when an iterator is made.

    Lightning makes the iterator of the first epoch before it reads a checkpoint, and keeps it
    (Lightning issue 20550): workers would load batches of an epoch that is over.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        yield from super().__iter__()


class EvalOrder(DistributedSampler[Any]):
    """Every sample once, in order; rows that make all processes' batches equal are not valid."""

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
        places = torch.arange(self.share) * self.num_replicas + self.rank
        valid = places < self.size
        indices = places.clamp(max=self.size - 1)
        for start in range(0, self.share, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield Order(indices[rows], valid[rows], 0, 0)
