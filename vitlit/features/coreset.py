"""A bank of vectors that stays small: those that lie farthest apart stand for all of them.

unit vectors (n, D), chunk by chunk -> a bank (m, D), m at most ``most``; up to 2 * most on the way

Greedy k-centre selection (Gonzalez, 1985), as PatchCore (Roth et al., 2022) thins its bank. A
random subset would be simpler, but it keeps what is frequent: a rare part of a normal image, such
as the label of a bottle, may then be far from all that was kept, and look like a fault.
"""

import torch
from torch import Tensor

CHUNK_ROWS = 1024  # vectors compared with all of a bank at a time
PROJECTED = 64  # dimensions in which the selection measures distances, if there are more


def nearest_distance(rows: Tensor, bank: Tensor) -> Tensor:
    """Cosine distance, 0 to 2, of each unit vector ``(n, D)`` to the nearest of ``(m, D)``."""
    parts = [(chunk @ bank.T).amax(dim=1) for chunk in torch.split(rows, CHUNK_ROWS)]
    # rounding puts the cosine of a vector with itself a little above or below 1
    return (1 - torch.cat(parts)).clamp(min=0)


def chord(distance: Tensor) -> Tensor:
    """Euclidean distance of unit vectors, from their cosine distance."""
    return (2 * distance).sqrt()


def farthest_first(rows: Tensor, count: int) -> Tensor:
    """Places of ``count`` of the rows ``(n, D)``: the first, then always the farthest from these.

    The largest distance of a row to the nearest chosen one is at most twice what the best choice of
    as many rows would leave (Gonzalez, 1985).
    """
    square = rows.square().sum(dim=1)
    # Two vectors and no more, made once: a temporary matrix in each of thousands of steps breaks up
    # the memory of the process until there is none left.
    distance, step = torch.full_like(square, torch.inf), torch.empty_like(square)
    places = torch.zeros(count, dtype=torch.long)
    for i in range(count):
        place = int(distance.argmax()) if i else 0
        places[i] = place
        torch.mv(rows, rows[place], out=step)
        step.mul_(-2).add_(square).add_(square[place])  # |a - b|² = |a|² + |b|² - 2 ab
        torch.minimum(distance, step, out=distance)
    return places.to(rows.device)


def projected(rows: Tensor) -> Tensor:
    """Rows on fewer random axes, which keep distances roughly (Johnson & Lindenstrauss, 1984)."""
    width = rows.shape[1]
    if width <= PROJECTED:
        return rows
    # a generator of its own: the same axes in each run, whatever was drawn before
    axes = torch.randn(width, PROJECTED, generator=torch.Generator().manual_seed(0))
    return rows @ (axes / PROJECTED**0.5).to(rows)


class Coreset:
    """A bank of at most ``most`` unit vectors that stand for all that were added.

    seen: how many were added; radius: each of them is within this Euclidean distance of one in the
    bank, 0 if all were kept. The bank depends on their order and on nothing else.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen, self.radius = 0, 0.0
        self._kept: Tensor | None = None
        self._gap = 0.0  # vectors within this distance of one that was kept are left out

    def add(self, rows: Tensor) -> None:
        """Take unit vectors float32 ``(n, D)``."""
        self.seen += len(rows)
        while len(rows):
            room = 2 * self.most - (0 if self._kept is None else len(self._kept))
            self._take(rows[:room])
            rows = rows[room:]

    @property
    def kept(self) -> Tensor:
        """What stands for all so far, not thinned yet: ``(m, D)``, m at most 2 * most."""
        assert self._kept is not None
        return self._kept

    def _take(self, rows: Tensor) -> None:
        if self._kept is None:
            self._kept = rows.clone()  # not a view of the batch, which would stay in memory
        else:
            far = chord(nearest_distance(rows, self._kept)) > self._gap
            self._kept = torch.cat([self._kept, rows[far]])
        if len(self._kept) == 2 * self.most:
            self._thin(self._kept)

    def bank(self) -> Tensor:
        """The vectors that stand for all: ``(m, D)``, m at most ``most``."""
        if len(self.kept) > self.most:
            self._thin(self.kept)
        return self.kept

    def _thin(self, rows: Tensor) -> None:
        self._kept = rows[farthest_first(projected(rows), self.most)]
        gap = float(chord(nearest_distance(rows, self._kept)).max())
        # What is near a vector that is left out now may be as far from the bank as the sum.
        self.radius += gap
        self._gap = max(self._gap, gap)
