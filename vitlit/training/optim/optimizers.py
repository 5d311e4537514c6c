"""The optimisers by name, and which learning rates they accept.

groups of parameters -> optimiser
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from vitlit.errors import InputError, say
from vitlit.training.optim.muon import MuonAdamW

OptimizerName = Literal["adamw", "adam", "sgd", "muon"]
MOMENTUM = 0.9  # of sgd, if nobody gives another


def make_optimizer(
    kind: OptimizerName,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    momentum: float,
    fused: bool | None,
) -> torch.optim.Optimizer:
    """The optimiser of parameter groups. momentum: of sgd; fused: as torch's optimisers take it."""
    match kind:
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, lr=lr, fused=fused)
        case "muon":
            return MuonAdamW(groups, lr=lr, fused=fused)
    sgd = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused)
    # torch's fused SGD allocates the momentum in its first update. If that is skipped, because it
    # is not finite, the memory keeps what was in it, and the next update adds that to the weights.
    # A momentum of 0 does not change the first update.
    for group in groups if momentum else []:
        for parameter in group["params"]:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def check_rates(lr: float, min_lr: float, head_lr: float | None) -> None:
    """Refuse learning rates at which nothing is learned, or the schedule would rise."""
    for name, rate in {"lr": lr, "head_lr": head_lr}.items():
        if rate is not None and not 0 < rate < math.inf:
            raise InputError(f"{name} {rate} is not positive; give one above 0", argument=name)
    if not 0 <= min_lr <= lr:
        raise InputError(
            f"min_lr {min_lr} is not between 0 and lr {lr}; give one that is", argument="min_lr"
        )


def check_muon_lr(muon_lr: float, optimizer: str) -> None:
    """Refuse a rate of Muon that no update would have, or that is not positive."""
    if optimizer != "muon":
        raise InputError(
            f"muon_lr {muon_lr} is for optimizer muon, not {optimizer}; give that, or leave it out",
            argument=("muon_lr", "optimizer"),
        )
    if not 0 < muon_lr < math.inf:
        raise InputError(f"muon_lr {muon_lr} is not positive; give one above 0", argument="muon_lr")


def tell_unused(settings: Mapping[str, Any]) -> None:
    """Tell of settings of a training that were changed and that nothing reads.

    No error, since checkpoints with them exist, and a sweep may change the optimiser alone.
    """
    if settings["momentum"] != MOMENTUM and settings["optimizer"] != "sgd":
        say(f"momentum {settings['momentum']} is for optimizer sgd, not {settings['optimizer']}")
    if settings["min_lr"] and settings["schedule"] == "constant":
        say(f"min_lr {settings['min_lr']} has no effect with schedule constant")
