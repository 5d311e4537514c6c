"""Addressed randomness: every draw is a function of where it is used, not of earlier draws.

(seed, epoch, sample, ...) -> key -> draws (B, k) in [0, 1), or a permutation (n,)

A draw's address is a few integers. A counter-based hash (SplitMix64) turns addresses into numbers,
so they are the same on every device and for every batch size, number of processes and number of
workers, and a run that resumes needs no saved generator.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor


class Stream(IntEnum):
    """The second part of an address, after the seed: different uses of one seed are independent."""

    # Never renumber: that would change what every seed gives, and a resumed run would draw anew.

    ORDER = 1
    DROPOUT = 2
    AUGMENT = 3
    TEST_SPLIT = 4
    VAL_SPLIT = 5
    PART_SPLIT = 6
    MASK = 7
    FOLDS = 8
    EVALUATION = 9


class BatchAddress(NamedTuple):
    """The address of a batch: its random draws are functions of these values and the seed.

    sample: int64 ``(B,)``, each image's index in its split, for draws of one image; epoch: from 0;
    key: for draws of the batch as a whole (mixing, dropout).
    """

    sample: Tensor
    epoch: int
    key: int


_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the step of SplitMix64
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # factors of SplitMix64's finaliser


def _signed(value: int) -> int:
    """The same 64 bits as a signed number, because int64 tensors hold no others."""
    return value - (1 << 64) if value >> 63 else value


def _finalise(value: int) -> int:
    """SplitMix64's finaliser (Steele et al., 2014) on one unsigned 64-bit number."""
    value = ((value ^ (value >> 30)) * _MIX1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX2) & _MASK
    return value ^ (value >> 31)


def _finalise_tensor(value: Tensor) -> Tensor:
    """:func:`_finalise` on an int64 tensor, bit for bit."""
    # int64 products wrap modulo 2**64 as needed. Right shifts copy the sign bit, so each is masked
    # to the bits that a logical shift leaves.
    value = (value ^ ((value >> 30) & ((1 << 34) - 1))) * _signed(_MIX1)
    value = (value ^ ((value >> 27) & ((1 << 37) - 1))) * _signed(_MIX2)
    return value ^ ((value >> 31) & ((1 << 33) - 1))


def address(*parts: int) -> int:
    """Hash integers to one unsigned 64-bit key: ``address(seed, epoch, step)``."""
    key = 0
    for part in parts:
        key = _finalise((key + _GOLDEN + part) & _MASK)
    return key


def uniform(key: int, index: Tensor, columns: int) -> Tensor:
    """Draws in [0, 1): row i depends on ``key`` and ``index[i]`` alone, not on the other rows.

    key: from :func:`address`; index: int64 ``(B,)``. Returns float32 ``(B, columns)``,
    multiples of 2**-24.
    """
    return uniform_of_keys({key: columns}, index)[0]


def uniform_of_keys(columns: Mapping[int, int], index: Tensor) -> tuple[Tensor, ...]:
    """:func:`uniform` of several keys at once, which takes a processor hardly longer than one.

    columns: of each key. Returns float32 ``(B, columns)`` for each.
    """
    starts = [_signed((key + _GOLDEN) & _MASK) for key in columns]
    rows = _finalise_tensor(index.long()[:, None] + torch.tensor(starts, device=index.device))
    widths = list(columns.values())
    whole = [rows[:, i : i + 1].expand(-1, width) for i, width in enumerate(widths)]
    steps = [_signed(step * _GOLDEN & _MASK) for width in widths for step in range(1, width + 1)]
    bits = _finalise_tensor(torch.cat(whole, dim=1) + torch.tensor(steps, device=index.device))
    # The top 24 bits: float32 holds them exactly, so that no draw is rounded up to 1.
    draws = ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24
    return torch.split(draws, widths, dim=1)


def permutation(key: int, count: int) -> Tensor:
    """A random order of ``count`` items that depends on the key alone: int64 ``(count,)``."""
    # torch's CPU generator uses 32 bits of the seed; address has mixed all 64 into them.
    generator = torch.Generator().manual_seed(_signed(key))
    return torch.randperm(count, generator=generator)


def seed_dropout(key: int, device: torch.device) -> None:
    """Reseed the device's global generator, which only dropout and stochastic depth draw from."""
    # Not torch.manual_seed: it queues a seed, and a stack trace with it, for each kind of device
    # that is not in use: milliseconds in every step, and memory that is never freed.
    if device.type == "cpu":
        torch.default_generator.manual_seed(_signed(key))
    else:
        torch.get_device_module(device).manual_seed(_signed(key))
