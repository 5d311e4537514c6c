"""The callbacks of every training, in their order, those against faults among them.

settings of fit -> callbacks
"""

from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.utilities import rank_zero_info

from vitlit.errors import InputError
from vitlit.explain.attention_pictures import AttentionPictures
from vitlit.fault_tolerance.heartbeat import Heartbeat
from vitlit.fault_tolerance.nonfinite import FiniteUpdates
from vitlit.fault_tolerance.resume import Resume
from vitlit.fault_tolerance.signals import Stopping
from vitlit.training import slurm
from vitlit.training.checkpoint_callbacks import BestCheckpoint, LastCheckpoint, monitor_mode
from vitlit.training.ema import MovingAverage
from vitlit.training.history import History
from vitlit.training.saved_settings import SaveSettings
from vitlit.weights.checkpoint import CHECKPOINTS_FOLDER


class Guards(NamedTuple):
    """Callbacks of a training, in order: ``first``, those that change the model, ``last``."""

    stopping: Stopping
    skip: int

    @property
    def first(self) -> list[Callback]:
        return [Resume(), FiniteUpdates(self.skip)]

    @property
    def last(self) -> list[Callback]:
        """After what is to be in a checkpoint."""
        return [self.stopping, Heartbeat()]

    def fit(self, trainer: pl.Trainer, **kwargs: Any) -> None:
        """``trainer.fit`` that handles signals, once the settings of the cluster are checked."""
        slurm.warn_of_cluster_traps(trainer)
        with self.stopping.listening():
            trainer.fit(**kwargs)


def make_guards(settings: Any) -> Guards:
    """From the settings of ``fit``."""
    seconds = settings["timeout_seconds"]
    if seconds <= 0:
        raise InputError(f"timeout_seconds {seconds} is not positive; give 1 or more")
    return Guards(Stopping(timedelta(seconds=seconds)), settings["nonfinite"]["skip"])


def training_callbacks(settings: Any, run: Path | None, guards: Guards) -> list[Callback]:
    """What every training has besides the callbacks that the user configured.

    settings: of ``fit``; run: its folder, None where Lightning's loggers decide.
    """
    trainer, monitor = settings["trainer"], settings["checkpoints"]["monitor"]
    callbacks = guards.first
    if trainer["enable_checkpointing"] is not False and not trainer["fast_dev_run"]:
        folder = None if run is None else run / CHECKPOINTS_FOLDER
        when = {k: v for k, v in settings["checkpoints"].items() if k != "monitor"}
        callbacks += [BestCheckpoint(folder, monitor), LastCheckpoint(folder, **when)]
        callbacks.append(SaveSettings(settings))
    elif not trainer["fast_dev_run"]:
        rank_zero_info("no checkpoint will be written: trainer.enable_checkpointing is false")
    if trainer["logger"] is not False and not trainer["fast_dev_run"]:
        callbacks.append(History())
    if every := settings["pictures"]["every_n_epochs"]:
        callbacks.append(AttentionPictures(every))
    if (decay := settings["ema"]["decay"]) > 0:
        callbacks.append(MovingAverage(decay))
    if settings["early_stopping"]["patience"] > 0:
        mode = monitor_mode(monitor)
        callbacks.append(EarlyStopping(monitor, mode=mode, **settings["early_stopping"]))
    return callbacks + guards.last
