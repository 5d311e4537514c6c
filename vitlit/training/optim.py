"""What the optimiser is told: parameter groups, and the learning-rate factor of each step."""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from vitlit.errors import InputError

# two axes or more, but tables, a vector; locality is the positional part of GPSA
NOT_MATRICES = ("pos_embed", "cls_token", "reg_token", "locality")


def layer_of(name: str, depth: int) -> int:
    """The layer that a parameter of a ViT belongs to, as BEiT counts them (Bao et al., 2022).

    0 holds the patch embedding, the positions and the tokens, i+1 block i, and depth+1 the last
    norm and the head. name: as in the model's state, perhaps with a prefix.
    """
    parts = name.split(".")
    if "blocks" in parts:
        return int(parts[parts.index("blocks") + 1]) + 1
    is_first = "patch_embed" in parts or parts[-1] in NOT_MATRICES
    return 0 if is_first else depth + 1


def freeze(module: nn.Module, blocks: int, depth: int) -> None:
    """Keep the embedding and the first ``blocks`` blocks as they are; -1 all but the head."""
    for name, parameter in module.named_parameters():
        if blocks == -1:
            parameter.requires_grad_("head" in name.split("."))
        elif blocks > 0:
            parameter.requires_grad_(layer_of(name, depth) > blocks)


def parameter_groups(
    module: nn.Module,
    *,
    weight_decay: float,
    decay: Literal["matrices", "all"],
    lr: float = 1e-3,
    layer_decay: float = 1.0,
    depth: int = 0,
) -> list[dict[str, Any]]:
    """Groups by learning rate and weight decay, the first layer first; frozen ones are left out.

    decay: ``matrices`` spares biases, norms, positions and the tokens; ``all`` spares none.
    layer_decay: each layer below the head has this much of the rate of the one above it; ``depth``
    is the number of blocks. The last groups have the rate ``lr``.
    """
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim > 1 and name.rpartition(".")[2] not in NOT_MATRICES
        layer = layer_of(name, depth) if layer_decay != 1.0 else depth + 1
        found.setdefault((layer, decay == "all" or is_matrix), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr": lr * layer_decay ** (depth + 1 - layer),
        }
        for (layer, decays), parameters in sorted(
            found.items(), key=lambda item: (item[0][0], not item[0][1])
        )
    ]


def spread_non_finite(loss: Tensor) -> Tensor:
    """The same loss, whose gradients are not finite where it is not itself.

    An infinite loss can have finite gradients, and then processes would not learn of each other's.
    """
    return loss * (loss.detach() * 0 + 1)  # by 1, or by what is not a number


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
            "give max_epochs or max_steps, or schedule constant",
            argument=("max_epochs", "max_steps", "schedule"),
        )
    return lambda step: warmup_cosine(step, total=int(total), warmup=warmup, floor=floor)
