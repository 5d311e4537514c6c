"""Whether a training can resume from a checkpoint, and has anything left to do.

content of a checkpoint, settings -> InputError, or nothing
"""

from pathlib import Path
from typing import Any

from vitlit.errors import InputError
from vitlit.weights.checkpoint import training_settings_of


def check_can_go_on(content: dict[str, Any], settings: Any, run: Path | None, path: Path) -> None:
    """Refuse to resume from bare weights, or a training that has nothing left to do.

    settings: those of the training to come. run: its folder, or None. A run that is restarted by
    the same command from its own checkpoint may have nothing left to do.
    """
    for name in ("optimizer_states", "lr_schedulers", "loops", "callbacks"):
        if name not in content:
            raise InputError(
                f"{path} has no {name}, so training cannot resume from it; give "
                f"--model.pretrained {path} to start from its weights"
            )
    # With other limits the user wants more steps, so having none left is a mistake.
    kept, limits = training_settings_of(content), ("trainer.max_epochs", "trainer.max_steps")
    is_own = run is not None and path.resolve().is_relative_to(run.resolve())
    if not is_own or any(settings[name] != kept.get(name) for name in limits):
        check_is_unfinished(content, settings["trainer"], path)
        check_is_not_stopped(content, settings["early_stopping"]["patience"], path)


def check_is_not_stopped(content: dict[str, Any], patience: int, path: Path) -> None:
    """Refuse to continue a training that early stopping would end before the first step."""
    # Lightning's key of a callback's state has its arguments after the name.
    states = [v for k, v in content["callbacks"].items() if str(k).startswith("EarlyStopping")]
    waited = max((int(state.get("wait_count", 0)) for state in states), default=0)
    if 0 < patience <= waited:
        raise InputError(
            f"early stopping ended the training of {path} after {waited} validations without a "
            f"better score; give --early_stopping.patience 0, or more than {waited}"
        )


def check_is_unfinished(content: dict[str, Any], trainer: Any, path: Path) -> None:
    """Refuse a training that has reached its limits: it would end at once, without a word."""
    try:
        epochs = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
        steps = int(content["global_step"])
    except (LookupError, TypeError, ValueError) as error:  # a file may hold anything under the keys
        raise InputError(f"{path} holds no state of a training; fit needs a last.ckpt") from error
    for name, done in (("max_epochs", epochs), ("max_steps", steps)):
        limit = trainer[name]
        if limit not in (None, -1) and done >= limit:  # Lightning's two ways to say "no limit"
            raise InputError(
                f"{path} has already reached {name} {limit}; give --trainer.{name} above {done}"
            )


def check_average(ema: Any, content: dict[str, Any], path: Path) -> None:
    """Refuse to resume with a moving average if there was none, or without one if there was."""
    # With an average state_dict holds it, and the weights in training are under another key.
    if "averaging_state" in content and not ema["decay"]:
        raise InputError(
            f"{path} was trained with a moving average of its weights; give --ema.decay again"
        )
    if "averaging_state" not in content and ema["decay"]:
        raise InputError(
            f"{path} was trained without a moving average of its weights; leave out --ema.decay"
        )
