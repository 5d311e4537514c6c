"""The learning rate over the steps of a training: warmup, then a cosine or a constant.

step -> factor of the learning rate, in [0, 1]
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from vitlit.errors import InputError, check_at_least, check_below_one

if TYPE_CHECKING:  # commands that do not train need none of Lightning, which takes seconds
    import pytorch_lightning as pl


def warmup_cosine(step: int, *, total: int, warmup: int, floor: float) -> float:
    """Learning-rate factor of a step: linear from 1/warmup to 1, then half a cosine to ``floor``.

    step: optimiser steps done so far; total, warmup: steps of the run and of its warmup;
    floor: the factor at the end (Loshchilov and Hutter, 2017, equation 5, without restarts).
    """
    if step < warmup:
        return (step + 1) / warmup  # + 1: a first step at rate 0 would be wasted
    # At most 1: the cosine would rise again after the end.
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_constant(step: int, *, warmup: int) -> float:
    """Learning-rate factor of a step: linear from 1/warmup to 1, then 1."""
    return min(1.0, (step + 1) / max(1, warmup))


def schedule_factor(
    kind: Literal["cosine", "constant"], *, total: float, warmup: int, floor: float
) -> Callable[[int], float]:
    """The factor as a function of the step, for ``LambdaLR``.

    total: optimiser steps of the whole run, infinite if the run has no planned end; then a cosine
    raises InputError.
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


def warmup_steps(settings: Mapping[str, Any], total: float, trainer: "pl.Trainer") -> int:
    """Warmup in optimiser steps.

    settings: the three ways to say it; total: steps of the run, infinite if it has no planned end.
    Raises InputError if warmup_fraction is a share of an unknown number of steps.
    """
    if settings["warmup_fraction"]:
        if not math.isfinite(total):
            raise InputError(
                "warmup_fraction needs to know the end of training; give max_epochs or max_steps",
                argument=("max_epochs", "max_steps"),
            )
        return round(settings["warmup_fraction"] * total)
    if not settings["warmup_epochs"]:
        return settings["warmup_steps"]
    # estimated_stepping_batches loads the data only if max_epochs is set; until then
    # num_training_batches is infinite.
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    # Rounded up: Lightning steps on the last batch even if the accumulation is not complete.
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    return round(settings["warmup_epochs"] * per_epoch)


def check_warmup(epochs: float, steps: int, fraction: float) -> None:
    """Refuse a warmup that is said in two ways, negative, or as long as the whole training."""
    check_at_least(0, warmup_epochs=epochs, warmup_steps=steps)
    check_below_one(warmup_fraction=fraction)
    if sum(map(bool, (epochs, steps, fraction))) > 1:
        raise InputError(
            f"warmup_epochs {epochs}, warmup_steps {steps} and warmup_fraction {fraction} exclude "
            "each other; set all but one to 0",
            argument=("warmup_epochs", "warmup_steps", "warmup_fraction"),
        )
