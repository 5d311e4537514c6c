"""Signals: after the optimiser step in which one came, all processes save and end.

a signal to any process -> flag -> maximum over processes -> last.ckpt -> Stopped
the first process's clock -> flag -> maximum over processes -> last.ckpt
"""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

from vitlit.errors import Stopped
from vitlit.fault_tolerance.ending import (
    CAUGHT_SIGNALS,
    SAME_WISH_SECONDS,
    handling_signals,
    print_now,
    sending_lost_again,
)
from vitlit.fault_tolerance.heartbeat import watching_launcher
from vitlit.fault_tolerance.signal_thread import watching_signals
from vitlit.training.checkpoint_callbacks import LastCheckpoint, is_within_step
from vitlit.training.ema import MovingAverage
from vitlit.training.slurm import requeue

# If no handler has run for a signal after this time, Python waits in C.
GRACE_SECONDS = 3.0
# NCCL's watchdog aborts the process at its timeout. By then the exchange below, which can tell
# which rank is lost, must have failed.
NCCL_DELAY = timedelta(minutes=1)
BEFORE_FIRST_STEP = "before the first step; nothing was saved"


class Agreement:
    """What any process reports at the start of a step, all know at its end.

    Each process gives two numbers, a signal and whether a save is due; the maxima count. They are
    reduced on the CPU while the step runs, so that no step waits for a device. All processes must
    call both methods equally often.
    """

    def __init__(self, timeout: timedelta) -> None:
        # A group of its own: gloo works on the CPU, and mixes with no collective of the training.
        self._group: Any = dist.new_group(backend="gloo", timeout=timeout)
        self._values = torch.zeros(2, dtype=torch.int32)
        self._work: Any = None

    def begin(self, signum: int, is_due: bool = False) -> None:
        """Start to exchange this process's numbers."""
        self._values[0], self._values[1] = signum, is_due
        self._work = dist.all_reduce(
            self._values, op=dist.ReduceOp.MAX, group=self._group, async_op=True
        )

    def end(self) -> tuple[int, bool]:
        """The maxima of all numbers. Raises RuntimeError if a process is lost."""
        self._work.wait()
        signum, is_due = self._values.tolist()
        return signum, bool(is_due)


def set_timeout(timeout: timedelta) -> None:
    """Set how long processes wait for each other in collectives from now on."""
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(timeout)
    else:  # before torch 2.15
        assert dist.group.WORLD is not None
        dist.group.WORLD.set_timeout(timeout)


class Stopping(Callback):
    """Saves and ends a training when a signal asks for it; a second signal ends it at once.

    Once the last step is done, the training ends by itself: a first signal changes nothing.

    A process that waits outside Python, where no handler runs, is ended too: before the first step,
    when there is nothing to save, or by a second signal. If its launcher is gone, a process acts as
    if it had received SIGTERM.

    Args:
        timeout: How long processes wait for each other.
    """

    def __init__(self, timeout: timedelta) -> None:
        self.timeout = timeout
        self.signum = 0  # of the signal that came
        self._pid = os.getpid()  # loader workers are forks, and inherit the handlers
        self._training = self._is_first = False
        self._is_over = False  # whether all steps are done
        self._agreement: Agreement | None = None
        self._lasts: list[LastCheckpoint] = []
        self._is_spared = False  # whether a signal has come while a checkpoint is written
        self._came = math.inf  # when the first signal came, in seconds of the monotonic clock
        self._noted = -math.inf  # when a handler last ran

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals while this lasts."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may have handlers
            return
        with (
            handling_signals(self._note),
            sending_lost_again(self._forget),
            watching_signals(self._hear),
            watching_launcher(self._lose_launcher),
        ):
            yield

    def _lose_launcher(self, by_torchrun: bool) -> bool:
        """Act as on SIGTERM, unless a failed collective is about to tell which rank is lost."""
        if self._training and not by_torchrun:
            return False
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    def _note(self, signum: int, frame: Any) -> None:
        # The handler. It only sets a flag while training: saving here would interrupt a step.
        self._noted = now = time.monotonic()
        is_child = os.getpid() != self._pid
        if self.signum:
            if is_child:  # a loader worker: the second signal ends it as it would end any process
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            if now - self._came > SAME_WISH_SECONDS:
                self._end_unless_saving(signum)
            return
        self.signum, self._came = signum, min(now, self._came)
        if not (self._training or self._is_over or is_child):
            raise Stopped(signum, BEFORE_FIRST_STEP)
        if self._is_first and not is_child:
            what = "saving after this step; a second signal ends without saving"
            if self._is_over:  # the last checkpoints may yet have to be written
                what = "the training is over and ends in a moment; a second signal ends it at once"
            print_now(f"{signal.Signals(signum).name}: {what}")

    def _forget(self) -> None:
        """Wait for the first signal, as before the one whose exception was lost."""
        self.signum, self._came = 0, math.inf

    def _end_unless_saving(self, signum: int) -> None:
        """Act on a second signal: end the process, unless it is writing a checkpoint.

        Then one more signal is needed, so that no impatient Ctrl-C loses the training.
        """
        if self._is_saving() and not self._is_spared:
            self._is_spared = True
            print_now("a checkpoint is being written; another signal ends without saving")
            return
        print_now(f"ended by another {signal.Signals(signum).name}")
        os._exit(128 + signum)

    def _is_saving(self) -> bool:
        return any(last.is_saving for last in self._lasts)

    def _hear(self, signum: int) -> None:
        """Note a signal, in another thread, whether or not its handler will run."""
        if signum not in CAUGHT_SIGNALS:
            return
        now = time.monotonic()
        self._came = min(now, self._came)
        timer = threading.Timer(GRACE_SECONDS, self._end_if_deaf, [signum, now])
        timer.daemon = True
        timer.start()

    def _end_if_deaf(self, signum: int, came: float) -> None:
        """End the process if the handler of a signal has not run, and no training would be lost."""
        is_heard, is_later = (
            self._noted > came - SAME_WISH_SECONDS,
            came - self._came > SAME_WISH_SECONDS,
        )
        has_steps = self._training or self._is_over
        if is_heard or self._is_saving() or (has_steps and not is_later):
            return
        # os._exit: an exception in this thread would not reach the main thread, which waits in C.
        stop = Stopped(signum, "while it waited" if has_steps else BEFORE_FIRST_STEP)
        print_now(str(stop))
        os._exit(stop.status)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            is_nccl = dist.get_backend() == "nccl"
            # not earlier: preparing the data may take longer
            set_timeout(self.timeout + NCCL_DELAY if is_nccl else self.timeout)
            self._agreement = Agreement(self.timeout)
        found = trainer.checkpoint_callbacks
        self._lasts = [last for last in found if isinstance(last, LastCheckpoint)]
        self._training, self._is_first = True, trainer.is_global_zero
        self._is_over = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning has counted this batch already: begin only with the one that completes a step.
        if self._agreement is not None and not is_within_step(trainer):
            # One clock decides when last.ckpt is saved, since all processes save or none.
            is_due = self._is_first and any(last.is_late() for last in self._lasts)
            self._agreement.begin(self.signum, is_due)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not is_within_step(trainer):
            self._stop_if_asked(trainer, pl_module)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._agreement is not None and not trainer.sanity_checking:
            self._agreement.begin(self.signum)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._training:
            self._stop_if_asked(trainer, pl_module)

    def _stop_if_asked(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save and stop, all processes or none; save and go on where last.ckpt is due."""
        signum, is_due = self.signum, False
        if self._agreement is not None:
            signum, is_due = self._agreement.end()
        if not signum:
            for last in self._lasts if is_due else ():
                last.save(trainer)
            return
        # MovingAverage swaps the average in for a validation; last.ckpt needs both in their places.
        if trainer.validating:
            for average in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(average, MovingAverage):
                    average.on_validation_epoch_end(trainer, pl_module)
        saved = "nothing was saved, as there is no last.ckpt"
        for last in self._lasts:
            last.save(trainer)
            saved = f"saved {last.best_model_path}"
        where = f"after step {trainer.global_step}; {saved}"
        if trainer.is_global_zero and signum != signal.SIGINT:
            where += requeue(signum)
        # All processes have agreed on the signal, so all of them raise here.
        raise Stopped(signum, where, quiet=not trainer.is_global_zero)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._training, self._is_over = False, True
