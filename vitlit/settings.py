"""Settings that contradict each other or the checkpoint, refused before anything is built."""

import inspect
import math
from pathlib import Path
from typing import Any

from vitlit.errors import InputError
from vitlit.vit import ViT

RATES = "_rate"  # dropout and stochastic depth may differ from the checkpoint's


def check_against_checkpoint(model: Any, saved: dict[str, Any], path: Path, command: str) -> None:
    """Weights fit one architecture, and the state of an optimiser that optimiser.

    model: the settings asked for; saved: those of the checkpoint.
    """
    names = [name for name in inspect.signature(ViT).parameters if not name.endswith(RATES)]
    if command == "fit":
        names.append("optimizer")
    for name in names:
        if name in model and name in saved and model[name] != saved[name]:
            raise InputError(
                f"model.{name} {model[name]} contradicts {path}, which has {saved[name]}; "
                f"leave out --model.{name}"
            )


def check_trainer(trainer: Any, command: str) -> None:
    """Refuse what Lightning would stumble over later."""
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"):
        value = trainer[name]
        if isinstance(value, int | float) and value <= 0:
            raise InputError(f"trainer.{name} {value} is not positive; give 1 or more")
    for name in ("gradient_clip_val", "log_every_n_steps"):
        if (trainer[name] or 0) < 0:
            raise InputError(f"trainer.{name} {trainer[name]} is negative; give 0 or more")
    if trainer["overfit_batches"]:
        raise InputError(
            "trainer.overfit_batches would replace the order of the data; "
            "give --trainer.limit_train_batches instead"
        )
    ends = ("max_epochs", "max_time", "fast_dev_run")
    if command == "fit" and trainer["max_steps"] == -1 and not any(trainer[name] for name in ends):
        if trainer["max_epochs"] == 0:
            return
        raise InputError(
            "training has no end; give --trainer.max_epochs or --trainer.max_steps, "
            "or start from a shipped recipe: --config digits.yaml"
        )


def check_early_stopping(patience: int, min_delta: float) -> None:
    if patience < 0 or not (math.isfinite(min_delta) and min_delta >= 0):
        raise InputError(
            f"early_stopping.patience {patience} and early_stopping.min_delta {min_delta} "
            f"must be 0 or more"
        )
