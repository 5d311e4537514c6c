"""Resuming where a checkpoint was taken: the same batches and rates as without a stop.

trainer -> Position, in the checkpoint -> the loops, the loader and the optimiser of another run

Lightning infers from its counters what was done when a checkpoint was taken; where it is wrong, it
repeats an epoch or skips a validation. So the position is saved, and the loops are set to it.
"""

from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from vitlit.data.sampler import TrainOrder
from vitlit.errors import InputError
from vitlit.fault_tolerance.lightning_internals import (
    is_validation_due,
    leave_epoch,
    set_logged_steps,
)
from vitlit.training.checkpoint_callbacks import is_within_step
from vitlit.training.training_module import TrainingModule

POSITION_KEY, SUMS_KEY = "position", "train_sums"  # of the checkpoint


@dataclass(frozen=True)
class Position:
    """A place between two optimiser steps.

    epoch: number of complete epochs; batch: how many of the ``batches`` of the next epoch the
    weights have seen; validated: whether the validation that is due after them was done; seed,
    images, global_batch, copies, window: what decides the order of the images; accumulate: batches
    of an optimiser step.
    """

    epoch: int
    batch: int
    validated: bool
    batches: int
    seed: int
    images: int
    global_batch: int
    accumulate: int
    copies: int | None = None  # None of checkpoints that are older than these two
    window: int | None = None

    def check(self, now: "Position") -> None:
        """Refuse to resume within an epoch whose batches would differ. now: that of the new run."""
        arguments = {
            "seed": ("seed_everything",),
            "images": ("dataset", "data_dir", "val_fraction", "train_fraction", "shots"),
            "global_batch": ("batch_size", "devices", "num_nodes"),
            "accumulate": ("accumulate_grad_batches",),
            "batches": ("limit_train_batches",),
            "copies": ("repeated_augment",),
            "window": ("shuffle_shards",),
        }
        for name, names in arguments.items():
            before, after = getattr(self, name), getattr(now, name)
            # between two epochs any of them may change
            if self.batch and before is not None and before != after:
                more = ", and the images as they were" if name == "images" else ""
                where = f"within epoch {self.epoch + 1}"
                raise InputError(
                    f"the checkpoint was saved {where}, with {name} {before} and not {after}; "
                    f"leave {', '.join(names)} as in its run{more}, or resume from a checkpoint "
                    f"that was saved between two epochs, as best.ckpt mostly is",
                    argument=names,
                )


class Resume(Callback):
    """Saves the position in each checkpoint, and sets a run that starts from one to it.

    A checkpoint taken between the batches of an optimiser step counts as taken before the first of
    them, since accumulated gradients are not saved.
    """

    def __init__(self) -> None:
        self._validated = (-1, 0)  # epoch and batch of the last validation
        self._found: dict[str, Any] | None = None
        self._groups: list[dict[str, Any]] = []
        self._sums: Tensor | None = None  # of training, after the last complete step
        self._patience: list[int] = []  # of this run's early stopping

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep what the state of a checkpoint replaces: its patience is none of this run's."""
        self._patience = [stopping.patience for stopping in trainer.early_stopping_callbacks]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated = (_epochs_done(trainer), _batches_done(trainer))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not isinstance(pl_module, TrainingModule) or trainer.accumulate_grad_batches == 1:
            return  # the sums are not always up to date, and bringing them there takes time
        # A validation or max_time, after which checkpoints are saved, may come within a step.
        if not is_within_step(trainer):
            self._sums = pl_module.train_sums.sums().clone()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Called on all processes: each has its part of the sums, which the reduction joins."""
        if (order := _train_order(trainer)) is None or not isinstance(pl_module, TrainingModule):
            return
        sums = pl_module.train_sums.sums().clone()
        if is_within_step(trainer) and self._sums is not None:
            sums = self._sums.clone()  # those of the position: without the batches to be repeated
        checkpoint[SUMS_KEY] = trainer.strategy.reduce(sums, reduce_op="mean")
        position = self._position(trainer, order)
        checkpoint[POSITION_KEY] = asdict(position)
        for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            # that of an epoch that was cut: a loop that has reached max_epochs is not run again
            counts["processed"] -= int(position.epoch < _epochs_done(trainer))

    def _position(self, trainer: pl.Trainer, order: TrainOrder) -> Position:
        epoch, batch = _epochs_done(trainer), _batches_done(trainer)
        validated = self._validated == (epoch, batch)
        epochs: Any = trainer.fit_loop.epoch_progress.current
        is_cut = epochs.started == epoch and 0 < batch < trainer.num_training_batches
        if is_cut:  # max_time or max_steps has ended it, which Lightning counts as done
            epoch -= 1
            validated = self._validated == (epoch, batch)
        elif epochs.started == epoch:  # the next epoch has not begun
            batch, validated = 0, False
        if batch and is_within_step(trainer):
            # The step before was complete, and its validation, if one was due, came right after it.
            batch, validated = batch - batch % trainer.accumulate_grad_batches, True
        return Position(
            epoch=epoch,
            batch=batch,
            validated=validated,
            batches=int(trainer.num_training_batches),
            seed=order.seed,
            images=order.size,
            global_batch=order.batch_size * order.num_replicas,
            accumulate=trainer.accumulate_grad_batches,
            copies=order.repeats,
            window=order.window,
        )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._found = {
            name: checkpoint[name] for name in (POSITION_KEY, SUMS_KEY) if name in checkpoint
        }

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep this run's settings of the optimiser before the checkpoint's state replaces them."""
        self._groups = [
            {name: value for name, value in group.items() if name != "params"}
            for optimizer in trainer.optimizers
            for group in optimizer.param_groups
        ]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found, self._found = self._found, None
        order = _train_order(trainer)
        if found is None or POSITION_KEY not in found or order is None:
            return
        assert isinstance(pl_module, TrainingModule)
        position = Position(**found[POSITION_KEY])
        position.check(self._position(trainer, order))
        _set_loops(trainer, position)
        order.resume(position.epoch, position.batch)
        if position.batch:
            pl_module.train_sums.restore(found[SUMS_KEY])
            self._sums = pl_module.train_sums.sums().clone()
        if position.validated:
            self._validated = (position.epoch, position.batch)
        _set_rates(trainer, self._groups)
        pairs = zip(trainer.early_stopping_callbacks, self._patience, strict=True)
        for stopping, patience in pairs:
            stopping.patience = patience
            if stopping.wait_count >= stopping.patience:
                rank_zero_info("early stopping had already ended the training of this checkpoint")
                trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning does so after the first batch; there is none if the epoch only had to end
        trainer.fit_loop.epoch_loop.restarting = False


def _epochs_done(trainer: pl.Trainer) -> int:
    """Epochs whose batches are all done; ``current_epoch`` is incremented only later."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return progress.processed


def _batches_done(trainer: pl.Trainer) -> int:
    """Batches of the epoch that the weights have seen."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def _train_order(trainer: pl.Trainer) -> TrainOrder | None:
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    return sampler if isinstance(sampler, TrainOrder) else None


def _set_progress(tracker: Any, done: int, *, begun: int = 0) -> None:
    """Set all counts of a tracker: ``done`` events are complete, ``begun`` more are under way."""
    for name in vars(tracker):
        setattr(tracker, name, done + (begun if name in ("ready", "started") else 0))


def _set_loops(trainer: pl.Trainer, position: Position) -> None:
    """Put Lightning's loops into the state that they have at a position.

    Lightning infers from counts of what was begun and done where it stopped, so the counts are set
    to what they would have been, and Lightning is asked to infer again.
    """
    epochs, batches = trainer.fit_loop, trainer.fit_loop.epoch_loop
    validation, done = batches.val_loop, batches.batch_progress
    within = position.batch > 0
    _set_progress(epochs.epoch_progress.total, position.epoch, begun=int(within))
    _set_progress(epochs.epoch_progress.current, position.epoch, begun=int(within))
    _set_progress(done.total, position.epoch * position.batches + position.batch)
    _set_progress(done.current, position.batch)
    done.is_last_batch = within and position.batch == position.batches
    epochs.restarting = within
    batches.restarting = within  # on its own: the other always says yes where max_steps is given
    due = within and is_validation_due(trainer)
    if done.is_last_batch and not due:
        leave_epoch(trainer)
    # a validation with a batch that was begun and is not done is run, one without is skipped
    _set_progress(validation.batch_progress.total, 0, begun=int(due and not position.validated))
    _set_progress(validation.batch_progress.current, 0)
    epochs.update_restart_stage()
    _set_progress(validation.batch_progress.total, 0)
    # loggers count steps when a batch ends; after a validation it has yet to
    set_logged_steps(trainer, trainer.global_step - int(due))


def _set_rates(trainer: pl.Trainer, groups: list[dict[str, Any]]) -> None:
    """Let the settings of this run decide the rates; the schedule continues at its step.

    groups: those of the optimiser as this run's settings make them. If the run was made longer, the
    rate is that of a run planned with the new length.
    """
    [optimizer] = trainer.optimizers
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group.update(settings)
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler  # its state dict brought the rates of the old settings
        scheduler.base_lrs = [settings["initial_lr"] for settings in groups]
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        for group, lr, factor in zip(
            optimizer.param_groups, scheduler.base_lrs, factors, strict=True
        ):
            group["lr"] = lr * factor
