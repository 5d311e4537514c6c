"""Training settings that a checkpoint keeps besides those of model and data.

settings that decide the updates -> a plain dict in the checkpoint -> defaults of the resumed run
"""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from vitlit.weights.checkpoint import TRAINING

# Only what changes the updates or the choice of the best: devices, logging and folders may differ.
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
    """Puts the settings in ``SAVED_SETTINGS`` into every checkpoint.

    settings: all settings of ``fit``, by dotted name.
    """

    def __init__(self, settings: Any) -> None:
        # Plain values only, since checkpoints are read with weights_only.
        found = {name: settings.get(name) for name in SAVED_SETTINGS}
        self.kept = {name: value for name, value in found.items() if is_plain_value(value)}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[TRAINING] = self.kept


def is_plain_value(value: Any) -> bool:
    """Whether a value is one that a checkpoint keeps: a string, a number, a bool or None."""
    return isinstance(value, str | int | float | bool | None)


def training_settings_of(content: dict[str, Any]) -> dict[str, Any]:
    """The settings of the training that wrote a checkpoint; empty for checkpoints without any."""
    kept = content.get(TRAINING)
    if not isinstance(kept, dict):
        return {}
    # A file may hold anything: only known names with plain values become settings.
    return {
        name: kept[name] for name in SAVED_SETTINGS if name in kept and is_plain_value(kept[name])
    }
