"""Addressed randomness: every draw is a function of where it is used, not of what came before.

A draw's address is a few integers (seed, epoch, sample index, ...). A counter-based hash turns
addresses into numbers, so they are the same on every device, for every batch size, number of
processes and number of workers, and a run that resumes needs no saved generator.
"""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor


class Stream(IntEnum):
    """First part of an address, so that different uses of one seed are independent.

    The numbers are part of what a seed means: to change one changes every trained model.
    """

    ORDER = 1
    DROPOUT = 2
    AUGMENT = 3
    TEST_SPLIT = 4
    VAL_SPLIT = 5
    PART_SPLIT = 6


class BatchAddress(NamedTuple):
    """What the randomness of a batch follows from.

    sample: int64 ``(B,)``, each image's place in its split; epoch: from 0; key: of the batch as a
    whole, for what is drawn for all of it (mixing, dropout).
    """

    sample: Tensor
    epoch: int
    key: int


_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the step of SplitMix64
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The same 64 bits as a signed number, which is what int64 tensors hold."""
    return value - (1 << 64) if value >> 63 else value


def _mix(value: int) -> int:
    """SplitMix64's finaliser (Steele et al., 2014) on one unsigned 64-bit number."""
    value = ((value ^ (value >> 30)) * _MIX1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX2) & _MASK
    return value ^ (value >> 31)


def _mix_tensor(value: Tensor) -> Tensor:
    """:func:`_mix` on an int64 tensor, which multiplies modulo 2**64; shifts must be logical."""
    value = (value ^ ((value >> 30) & ((1 << 34) - 1))) * _signed(_MIX1)
    value = (value ^ ((value >> 27) & ((1 << 37) - 1))) * _signed(_MIX2)
    return value ^ ((value >> 31) & ((1 << 33) - 1))


def address(*parts: int) -> int:
    """Hash integers to one unsigned 64-bit key: ``address(seed, epoch, step)``."""
    key = 0
    for part in parts:
        key = _mix((key + _GOLDEN + part) & _MASK)
    return key


def uniform(key: int, index: Tensor, columns: int) -> Tensor:
    """Draws in [0, 1): row i belongs to ``index[i]`` alone, whatever else is in the batch.

    key: from :func:`address`; index: int64 ``(B,)``. Returns float32 ``(B, columns)``,
    multiples of 2**-24.
    """
    rows = _mix_tensor(index.long() + _signed((key + _GOLDEN) & _MASK))
    steps = torch.arange(1, columns + 1, device=index.device) * _signed(_GOLDEN)
    bits = _mix_tensor(rows[:, None] + steps)
    return ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24


def permutation(key: int, count: int) -> Tensor:
    """An order of ``count`` items that depends on the key alone. Returns int64 ``(count,)``.

    torch's generator takes 32 bits of the key, which :func:`address` has mixed well.
    """
    generator = torch.Generator().manual_seed(_signed(key))
    return torch.randperm(count, generator=generator)


def seed_dropout(key: int, device: torch.device) -> None:
    """Reseed the device's global generator, which only dropout and stochastic depth draw from.

    torch.manual_seed would queue a seed, and a stack trace with it, for each kind of device that is
    not in use: milliseconds in every step, and memory that is never freed.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(_signed(key))
    else:
        torch.get_device_module(device).manual_seed(_signed(key))
