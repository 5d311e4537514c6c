"""The callbacks of every training, in the order in which Lightning must call them.

settings of ``fit`` -> callbacks

Lightning calls the hooks of callbacks in the order of the list, but moves checkpoint callbacks to
its end.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.utilities import rank_zero_info

from vitlit.cli.from_weights import DEBUG_CONFIG
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
from vitlit.weights.checkpoint import CHECKPOINTS_FOLDER, DEBUG_FILE


class DebugMark(Callback):
    """Marks a run as one that only tried whether everything runs: ``best`` passes over it."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            text = f"A trial with {DEBUG_CONFIG.name}; best and last pass over it.\n"
            (self.run / DEBUG_FILE).write_text(text, encoding="utf-8")


def is_debug(settings: Any) -> bool:
    """Whether the config for trials is among those of the settings, or a copy of it."""
    return any(Path(str(path)).name == DEBUG_CONFIG.name for path in settings.get("config") or ())


class Guards(NamedTuple):
    """Callbacks that protect a training from faults: ``first`` and ``last`` in the list.

    skip: number of updates that are not finite and may be skipped.
    """

    stopping: Stopping
    skip: int

    @property
    def first(self) -> list[Callback]:
        """Before our other callbacks: Resume sets the loops, which the others read."""
        return [Resume(), FiniteUpdates(self.skip)]

    @property
    def last(self) -> list[Callback]:
        """After our other callbacks: a signal saves the step, which must be complete by then."""
        return [self.stopping, Heartbeat()]

    def fit(self, trainer: pl.Trainer, **kwargs: Any) -> None:
        """Warn of traps in the cluster's settings, then ``trainer.fit`` with signals handled."""
        slurm.warn_of_cluster_traps(trainer)
        with self.stopping.listening():
            trainer.fit(**kwargs)


def make_guards(settings: Any) -> Guards:
    """The guards that the settings of ``fit`` ask for."""
    seconds = settings["timeout_seconds"]
    if seconds <= 0:
        raise InputError(f"timeout_seconds {seconds} is not positive; give 1 or more")
    return Guards(Stopping(timedelta(seconds=seconds)), settings["nonfinite"]["skip"])


def training_callbacks(settings: Any, run: Path | None, guards: Guards) -> list[Callback]:
    """The callbacks of a training, besides those that the user configured.

    settings: those of ``fit``; run: its folder, None if Lightning's loggers decide where to write.
    """
    # fast_dev_run only tries the code: it writes neither checkpoints nor a history.
    trainer, monitor = settings["trainer"], settings["checkpoints"]["monitor"]
    callbacks = guards.first
    if run is not None and is_debug(settings):
        callbacks.append(DebugMark(run))
    if trainer["enable_checkpointing"] is not False and not trainer["fast_dev_run"]:
        folder = None if run is None else run / CHECKPOINTS_FOLDER
        # "monitor" belongs to the best checkpoint; the rest says when last.ckpt is written.
        when = {k: v for k, v in settings["checkpoints"].items() if k != "monitor"}
        callbacks += [BestCheckpoint(folder, monitor), LastCheckpoint(folder, **when)]
        callbacks.append(SaveSettings(settings))
    elif not trainer["fast_dev_run"]:  # with it nobody expects any
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
