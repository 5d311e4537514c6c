"""One line for each epoch: where training stands, what it reached, and how long it will take.

rows of the history, trainer -> a line of a table; seconds of the first batches -> a line before it
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Timer

from vitlit.messages import labelled, short_time
from vitlit.training.history import Row
from vitlit.training.progress_bar import planned_epochs, print_above

COLUMNS = {  # heading -> name in the history; the score's comes after them
    "train loss": "train/loss_epoch",
    "val loss": "val/loss",
}
SCORE_HEADINGS = {
    "val/acc": "val acc",
    "val/balanced_acc": "balanced",
    "val/map": "val mAP",
    "val/f1": "val F1",
    "val/mae": "val MAE",
    "val/rmse": "val RMSE",
    "val/r2": "val R2",
}
TIMED_EPOCHS = 10  # last ones, whose mean time is that of the epochs to come
PACE_SECONDS = 60.0  # of training, before its pace is told


class EpochLines:
    """Prints a heading and then a line for each epoch, above the bar if there is one.

    monitor: the score by which the best epoch is chosen; usual: the one that is shown if that is
    the loss, None if there is none.
    """

    def __init__(self, monitor: str = "val/acc", usual: str | None = "val/acc") -> None:
        self._columns = dict(COLUMNS)
        if score := usual if monitor == "val/loss" else monitor:
            self._columns[SCORE_HEADINGS[score]] = score
        self._told = 0  # lines so far

    def epoch_done(self, trainer: pl.Trainer, rows: Sequence[Row]) -> None:
        """Print the line of the last row. rows: one for each epoch, also before a resume."""
        self._told += 1
        row, planned = rows[-1], planned_epochs(trainer)
        number = f"{row['epoch'] + 1:.0f}" + (f"/{planned}" if planned else "")
        width = max(5, len(f"{planned}/{planned}"))
        scores = [
            f"{_format_score(row.get(name)):>{len(heading)}}"
            for heading, name in self._columns.items()
        ]
        left = time_left(trainer, rows[-min(self._told, TIMED_EPOCHS) :])
        parts = [
            f"{number:>{width}}",
            *scores,
            f"{row['lr']:7.1e}",
            f"{row['seconds']:7.1f}",
            f"{'' if left is None else short_time(left):>9}",
            "best" if row.get("best") else "",
        ]
        line = "  ".join(parts).rstrip()
        headings = [f"{'epoch':>{width}}", *self._columns, "     lr", "seconds", "time left"]
        print_above(*(["  ".join(headings)] if self._told == 1 else []), line)


class Pace(Callback):
    """Says once, after a minute of training, how long an epoch and all of them will take.

    The line of the first epoch can be hours away, and a log has no bar. Not said if that line comes
    within a minute.
    """

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None  # batch and time from which it is measured
        self._is_told = False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._is_told:
            return
        now = time.monotonic()
        if self._first is None:  # not from the start: the first batch also compiles and allocates
            self._first = batch_idx, now
            return
        batches, seconds = batch_idx - self._first[0], now - self._first[1]
        if seconds < PACE_SECONDS:
            return
        self._is_told = True
        total, each = trainer.num_training_batches, seconds / batches
        ends_late = (total - batch_idx - 1) * each >= PACE_SECONDS
        if trainer.is_global_zero and ends_late and math.isfinite(total):
            left = min(_pace_limits(trainer, batch_idx + 1, each), default=None)
            rest = "" if left is None else f", all that is left {short_time(left)}"
            text = f"an epoch takes about {short_time(total * each)}{rest}; validation not counted"
            print_above(labelled("pace", text))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._is_told = True  # by its line


def _pace_limits(trainer: pl.Trainer, done: int, each: float) -> list[float]:
    """Seconds until each limit of the training, after so many batches of this epoch."""
    limits = _clock_limits(trainer)
    if (epochs := trainer.max_epochs or -1) > 0:
        batches = (epochs - trainer.current_epoch) * trainer.num_training_batches - done
        limits.append(batches * each)
    if trainer.max_steps > 0:
        steps = trainer.max_steps - trainer.global_step
        limits.append(steps * trainer.accumulate_grad_batches * each)
    return limits


def _clock_limits(trainer: pl.Trainer) -> list[float]:
    """Seconds until max_time ends it, if given."""
    timers = [one for one in trainer.callbacks if isinstance(one, Timer)]  # type: ignore[attr-defined]
    left = [timer.time_remaining() for timer in timers]
    return [max(0.0, seconds) for seconds in left if seconds is not None]


def _format_score(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1e}"


def time_left(trainer: pl.Trainer, rows: Sequence[Row]) -> float | None:
    """Seconds until the planned end, at the speed of these epochs; None if no end is planned.

    Early stopping, which nobody can foresee, may end it before.
    """
    if trainer.should_stop:
        return 0.0
    limits = _clock_limits(trainer)
    if planned := planned_epochs(trainer):
        # by epochs, since each has validations too, which take no step
        mean = sum(row["seconds"] for row in rows) / len(rows)
        limits.append((planned - (rows[-1]["epoch"] + 1)) * mean)
    return min(limits, default=None)
