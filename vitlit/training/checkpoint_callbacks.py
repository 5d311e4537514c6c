"""Checkpoint callbacks: ``best.ckpt`` by a score, and ``last.ckpt`` at any optimiser step.

trainer, its progress and scores -> files in the run's ``checkpoints`` folder
"""

import time
from pathlib import Path
from typing import Any, Literal
from weakref import proxy

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from vitlit.errors import check_at_least
from vitlit.files import run_name
from vitlit.weights.checkpoint import SAVED_SETTINGS, TRAINING, Monitor, is_plain_value

# Saves may take this share of the time: hashing and fsync of 86 MB take .3 s, a short epoch .6 s.
MAX_SAVING_SHARE = 0.05


def monitor_mode(monitor: str) -> Literal["min", "max"]:
    """Whether the lowest (``min``) or the highest (``max``) value of a score is the best."""
    return "min" if monitor.endswith(("loss", "mae", "rmse")) else "max"


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint with one fixed name, in ``folder`` or else where Lightning's loggers write."""

    def __init__(self, folder: Path | None, **settings: Any) -> None:
        # With the counter a resumed run would write best-v1.ckpt beside best.ckpt.
        super().__init__(folder, enable_version_counter=False, **settings)

    @property
    def state_key(self) -> str:
        """A short key: Lightning computes it for every hook of every step, and its own is slow."""
        return type(self).__name__

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the score to beat, if the state comes from this run.

        No path in a file is trusted, since Lightning replaces and deletes what they name; they are
        built anew from this run's folder, which may have moved.
        """
        name = run_name(Path(str(state_dict.get("dirpath"))).parent)
        score = state_dict.get("best_model_score")
        is_same = state_dict.get("monitor") == self.monitor
        # A run that starts from another run's checkpoint has its own best score to find.
        is_own = name == run_name(Path(str(self.dirpath)).parent)
        if not (is_same and is_own and isinstance(score, Tensor)):
            return
        path = str(Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}")
        self.best_model_path = self.kth_best_model_path = path
        self.best_model_score = self.kth_value = score
        self.best_k_models = {path: score}


class BestCheckpoint(RunCheckpoint):
    """Keeps best.ckpt, the checkpoint with the best validation score, in the run's folder.

    Among equal scores the latest wins: it was trained longer, and small validation sets tie often.
    monitor: the score to compare; for a loss the lowest is the best.
    """

    def __init__(self, folder: Path | None = None, monitor: Monitor = "val/acc") -> None:
        super().__init__(folder, monitor=monitor, mode=monitor_mode(monitor), filename="best")
        self._validated = -1  # optimiser steps before the last validation

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated = trainer.global_step
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The metrics keep the scores of an earlier validation, which are not of these weights.
        if self._validated == trainer.global_step:
            super().on_train_epoch_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        best = self.best_model_score
        # Lightning keeps the earlier of two equal scores.
        is_tie = current is not None and best is not None and bool(current == best)
        return is_tie or super().check_monitor_top_k(trainer, current)


class LastCheckpoint(RunCheckpoint):
    """Keeps last.ckpt, the newest checkpoint: written by the clock, and when the training ends.

    The first validation or epoch is saved too, so that a place that cannot be written to is noticed
    early. Within an epoch it is written after complete optimiser steps, before the validation that
    may follow. Lightning's ``save_last`` is no substitute: it writes only when the monitored score
    improves.

    Args:
        folder: Folder to write into; by default where Lightning's loggers write.
        every_n_steps: Optimiser steps between two saves; 0 adds no saves.
        every_minutes: Minutes between two saves, or more where a save takes so long that saving
            would exceed ``MAX_SAVING_SHARE``. 0 saves after each validation and each epoch instead.
    """

    def __init__(
        self, folder: Path | None = None, every_n_steps: int = 0, every_minutes: float = 1.0
    ) -> None:
        super().__init__(folder, filename="last", save_on_train_epoch_end=True)
        check_at_least(0, every_n_steps=every_n_steps, every_minutes=every_minutes)
        self.every_n_steps, self.every_minutes = every_n_steps, every_minutes
        self._saved_at, self._seconds = time.monotonic(), 0.0  # when, and how long it took
        self.is_saving = False  # whether a file is being written: a signal then waits for it
        self._saved_step = -1  # of the latest save in this training, -1 before the first

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores nothing: there is no score to beat."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at, self._saved_step = time.monotonic(), -1

    def is_late(self) -> bool:
        """Whether a save is due by the clock of this process."""
        seconds = max(60 * self.every_minutes, self._seconds / MAX_SAVING_SHARE)
        return self.every_minutes > 0 and time.monotonic() - self._saved_at >= seconds

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # global_step counts optimiser steps, so this holds with gradient accumulation too.
        is_due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        # Several processes have to save together: ``Stopping`` tells them when the first is late.
        is_due = is_due or (self.is_late() and trainer.world_size == 1)
        if is_due and trainer.global_step != self._saved_step and not is_within_step(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        # After the last batch on_train_epoch_end decides in a moment, about the same weights.
        is_last = progress.ready >= trainer.num_training_batches
        if self._should_skip(trainer) or is_last or is_within_step(trainer):
            return
        if self._is_due(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._should_skip(trainer) and self._is_due(trainer, is_end=is_ending(trainer)):
            self.save(trainer)

    def _is_due(self, trainer: pl.Trainer, *, is_end: bool = False) -> bool:
        """Whether to save after a validation or an epoch: all processes, or none."""
        if not self.every_minutes:
            return True
        is_due = is_end or self._saved_step < 0 or self.is_late()
        return bool(trainer.strategy.broadcast(is_due))  # the clock of the first process decides

    def save(self, trainer: pl.Trainer) -> None:
        """Save now. All processes must call it: ``save_checkpoint`` waits for each of them."""
        began = time.monotonic()
        self.best_model_path = self.format_checkpoint_name({})
        self.is_saving = True
        try:
            trainer.save_checkpoint(self.best_model_path)
        finally:
            self.is_saving = False
        for logger in trainer.loggers if trainer.is_global_zero else []:
            # A weak reference, as Lightning passes it: a logger must not keep the callback alive.
            logger.after_save_checkpoint(proxy(self))
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        self._seconds = self._saved_at - began

    def _should_skip(self, trainer: pl.Trainer) -> bool:
        # on_validation_end is called by trainer.validate and by the sanity check too.
        is_fit = trainer.state.fn == TrainerFn.FITTING
        return trainer.sanity_checking or not is_fit


def is_ending(trainer: pl.Trainer) -> bool:
    """Whether the epoch that ends is the last one. True too while Lightning keeps on for minima."""
    epochs: Any = trainer.fit_loop.epoch_progress.current  # not ``done``, which changes counts
    has_all_epochs = 0 < (trainer.max_epochs or -1) <= epochs.processed
    return trainer.should_stop or has_all_epochs or 0 <= trainer.max_steps <= trainer.global_step


def has_ended(trainer: pl.Trainer) -> bool:
    """Whether training reached max_epochs, max_steps or early stopping, and was not interrupted."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    done, steps = progress.processed, trainer.global_step
    max_epochs, max_steps = trainer.max_epochs, trainer.max_steps
    stopped = any(one.wait_count >= one.patience for one in trainer.early_stopping_callbacks)
    # max_time may have ended the last epoch before its last batch
    seen = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    is_whole = not 0 < seen < trainer.num_training_batches
    is_last_epoch = max_epochs not in (None, -1) and done >= max_epochs and is_whole
    return stopped or is_last_epoch or (max_steps != -1 and steps >= max_steps)


def is_within_step(trainer: pl.Trainer) -> bool:
    """Whether gradients are accumulated but not yet applied: a checkpoint would lose them."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    done = progress.current.ready
    if done % trainer.accumulate_grad_batches == 0:
        return False
    # Lightning steps on the last batch of an epoch even if the accumulation is not complete, unless
    # the strategy (DeepSpeed) accumulates by itself.
    is_last = progress.is_last_batch or done == trainer.num_training_batches
    return trainer.strategy.handles_gradient_accumulation or not is_last


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
