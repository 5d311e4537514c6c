"""Settings of a training that a checkpoint keeps besides those of model and data.

what decides the updates -> a plain dict in the checkpoint -> defaults of the training that goes on
"""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from vitlit.weights.checkpoint import TRAINING

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
