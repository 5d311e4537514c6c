"""What the optimiser is told: parameter groups, and the learning-rate factor of each step."""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from vitlit.errors import InputError

NOT_MATRICES = ("pos_embed", "cls_token")  # two axes or more, but a table and a vector


def parameter_groups(
    module: nn.Module, *, weight_decay: float, decay: Literal["matrices", "all"]
) -> list[dict[str, Any]]:
    """One group that decays and one that does not; an empty group is left out.

    decay: ``matrices`` spares biases, norms, positions and the class token; ``all`` spares none.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim > 1 and name.rpartition(".")[2] not in NOT_MATRICES
        (decayed if decay == "all" or is_matrix else spared).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def warmup_cosine(step: int, *, total: int, warmup: int, floor: float) -> float:
    """Learning-rate factor of a step: linear from 1/warmup to 1, then half a cosine to ``floor``.

    step: optimiser steps done so far; total, warmup: in the same unit; floor: smallest factor.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_constant(step: int, *, warmup: int) -> float:
    """Learning-rate factor of a step: linear from 1/warmup to 1, then 1."""
    return min(1.0, (step + 1) / max(1, warmup))


def schedule_factor(
    kind: Literal["cosine", "constant"], *, total: float, warmup: int, floor: float
) -> Callable[[int], float]:
    """The factor as a function of the step, for ``LambdaLR``.

    total: steps of the whole run, infinite where the run has no planned end.
    """
    if kind == "constant":
        return lambda step: warmup_constant(step, warmup=warmup)
    if not math.isfinite(total):
        raise InputError(
            "schedule cosine needs to know the end of training; "
            "give --trainer.max_epochs or --trainer.max_steps, or --model.schedule constant"
        )
    return lambda step: warmup_cosine(step, total=int(total), warmup=warmup, floor=floor)
