"""Settings of a training that a checkpoint keeps besides those of model and data.

what decides the updates -> a plain dict in the checkpoint -> defaults of the training that goes on
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info

from vitlit.data.split_builder import differing_setting
from vitlit.errors import InputError
from vitlit.weights.checkpoint import DATA_KEY, MODEL_KEY, TRAINING

SAVED_SETTINGS = (
    "seed_everything",
    "ema.decay",
    "checkpoints.monitor",
    "early_stopping.patience",
    "early_stopping.min_delta",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.precision",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.limit_train_batches",
    "trainer.limit_val_batches",
    "trainer.val_check_interval",
    "trainer.check_val_every_n_epoch",
)


class SaveSettings(Callback):
    """Puts the settings into every checkpoint.

    settings: all of them, by dotted name.
    """

    def __init__(self, settings: Any) -> None:
        found = {name: settings.get(name) for name in SAVED_SETTINGS}
        self.kept = {name: value for name, value in found.items() if is_plain_value(value)}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[TRAINING] = self.kept


def is_plain_value(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None)


def training_settings_of(content: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the training that it is of; older ones say nothing."""
    kept = content.get(TRAINING)
    if not isinstance(kept, dict):
        return {}
    return {
        name: kept[name] for name in SAVED_SETTINGS if name in kept and is_plain_value(kept[name])
    }


def tell_saved(kept: dict[str, Any], without: Any, settings: Any, path: Path) -> None:
    """Say which settings come from the checkpoint, so that none is a surprise.

    without: the settings as they were without it.
    """
    taken = [
        f"{name} {value}"
        for name, value in kept.items()
        if settings.get(name) == value != without.get(name)
    ]
    if taken:
        rank_zero_info(f"as in {path}, unless flags or configs say otherwise: {', '.join(taken)}")


def tell_changed(content: dict[str, Any], settings: Any, path: Path) -> None:
    """Say which settings of model and data are not those that the checkpoint was trained with."""
    changed = [
        f"{group}.{name} {settings[group][name]} (there {value})"
        for group, part in (("model", MODEL_KEY), ("data", DATA_KEY))
        for name, value in content[part].items()
        if name in settings[group] and settings[group][name] != value and is_plain_value(value)
    ]
    if changed:
        rank_zero_info(f"not as in {path}: {', '.join(changed)}")


def check_held_out(content: dict[str, Any], data: Any, path: Path) -> None:
    """Refuse to train on what was held out: all later scores would be of images that were seen."""
    then = content[DATA_KEY]
    name = differing_setting(data, then, "test") or differing_setting(data, then, "val")
    if name is not None:
        raise InputError(
            f"data.{name} {data[name]} contradicts {path}, which has {then[name]}: images that it "
            f"held out would be trained on; leave out --data.{name}"
        )


def check_can_go_on(content: dict[str, Any], settings: Any, run: Path | None, path: Path) -> None:
    """Refuse to train on from weights alone, or where nothing is left to do.

    settings: those of the training to come. run: its folder, if the checkpoint may be its own: then
    the same command as before may find that all is done.
    """
    for name in ("optimizer_states", "lr_schedulers", "loops", "callbacks"):
        if name not in content:
            raise InputError(
                f"{path} has no {name}, so training cannot go on from it; give "
                f"--model.pretrained {path} to start from its weights"
            )
    kept, limits = training_settings_of(content), ("trainer.max_epochs", "trainer.max_steps")
    is_own = run is not None and path.resolve().is_relative_to(run.resolve())
    if not is_own or any(settings[name] != kept.get(name) for name in limits):
        check_is_unfinished(content, settings["trainer"], path)
        check_is_not_stopped(content, settings["early_stopping"]["patience"], path)


def check_is_not_stopped(content: dict[str, Any], patience: int, path: Path) -> None:
    """Refuse to train longer what early stopping would end before the first step."""
    states = [v for k, v in content["callbacks"].items() if str(k).startswith("EarlyStopping")]
    waited = max((int(state.get("wait_count", 0)) for state in states), default=0)
    if 0 < patience <= waited:
        raise InputError(
            f"{path} is of a training that early stopping ended after {waited} validations without "
            f"a better score; give --early_stopping.patience 0, or more than {waited}"
        )


def check_is_unfinished(content: dict[str, Any], trainer: Any, path: Path) -> None:
    """Refuse a training without a step; it would end at once, without a word."""
    try:
        epochs = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
        steps = int(content["global_step"])
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no state of a training; fit needs a last.ckpt") from error
    for name, done in (("max_epochs", epochs), ("max_steps", steps)):
        limit = trainer[name]
        if limit not in (None, -1) and done >= limit:
            raise InputError(
                f"{path} has {name} {limit} behind it; give --trainer.{name} above {done}"
            )
