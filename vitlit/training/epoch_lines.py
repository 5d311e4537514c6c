"""One line for each epoch: where training stands, what it reached, and how long it will take.

rows of the history, trainer -> a line of a table
"""

from collections.abc import Sequence

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

from vitlit.messages import short_time
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
    limits = []
    if planned := planned_epochs(trainer):
        # by epochs, since each has validations too, which take no step
        mean = sum(row["seconds"] for row in rows) / len(rows)
        limits.append((planned - (rows[-1]["epoch"] + 1)) * mean)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        remaining = callback.time_remaining() if isinstance(callback, Timer) else None
        if remaining is not None:
            limits.append(max(0.0, remaining))
    return min(limits, default=None)
