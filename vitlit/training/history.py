"""The history of a run: ``history.csv`` and ``history.png``.

scores of each epoch -> a row of the table, a point of the figure
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only

from vitlit.files import HISTORY_FILE, replacing, run_name
from vitlit.plotting import BLUE, FONT_SMALL, FONT_TINY, GREY, VERMILION, new_figure, tidy_axes
from vitlit.training.checkpoint_callbacks import monitor_mode
from vitlit.weights.checkpoint import Monitor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


HISTORY_INCHES = 2.8  # height of history.png
TRAINING_COLUMNS = (
    "lr",
    "train/loss_epoch",
    "train/acc",
    "train/acc5",
    "train/teacher_agreement",
    "train/f1",
    "train/mae",
)
SCORE_COLUMNS = (
    "val/loss",
    "val/acc",
    "val/acc5",
    "val/balanced_acc",
    "val/map",
    "val/f1",
    "val/mae",
    "val/rmse",
    "val/r2",
)
HISTORY_COLUMNS = (*TRAINING_COLUMNS, *SCORE_COLUMNS)
# Numbers of one epoch: epoch (from 0), step (after it), seconds, the scores of HISTORY_COLUMNS that
# are known, and best: 1 if a validation in it gave the best score so far, else 0.
Row = dict[str, float]


class EpochListener(Protocol):
    """Whoever wants to see the numbers of each epoch, in the first process alone."""

    def epoch_done(self, trainer: pl.Trainer, rows: Sequence[Row]) -> None:
        """Called after each epoch. rows: one for each epoch so far; the last one is new.

        Other processes are not there to answer, so nothing may be exchanged with them.
        """


class History(Callback):
    """Keeps history.csv and history.png in the run's folder, with a row and a point for each epoch.

    A row is added when the next epoch starts, or the training ends. ``on_train_epoch_end`` of a
    callback is too early: Lightning calls the module's after it, which logs the training scores.

    run: the folder, None to write nothing; monitor: the score that decides which epoch is the best;
    listeners: are told of each epoch, but not again of those from before a resume.
    """

    def __init__(
        self,
        run: Path | None = None,
        monitor: Monitor = "val/acc",
        listeners: Sequence[EpochListener] = (),
    ) -> None:
        self.run, self.monitor, self.listeners = run, monitor, listeners
        self.rows: list[Row] = []
        self._validated = False  # whether callback_metrics holds validation scores of this epoch
        self._before: Row = {}  # numbers of this epoch from before it was resumed
        self._lr: float | None = None  # of the last step of this epoch, None before the first
        self._began = time.monotonic()
        self._best: float | None = None  # score so far
        self.is_best = False  # whether it is of this epoch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.monotonic()  # within an epoch, none starts

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Before the step: after it the schedule has set the rate of the next one. The last group is
        # that of the last layer, if layer_decay makes them differ.
        self._lr = trainer.optimizers[0].param_groups[-1]["lr"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._validated = True
        if self.monitor not in trainer.callback_metrics:
            return
        score, best = float(trainer.callback_metrics[self.monitor]), self._best
        sign = -1 if monitor_mode(self.monitor) == "min" else 1
        # of equal scores the later one is the best, as for best.ckpt
        if best is None or sign * score >= sign * best:
            self._best, self.is_best = score, True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_epoch(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_epoch(trainer)
        self._draw()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Draw the epochs so far. A full disk may be the very error, so a failure is ignored."""
        with suppress(OSError):
            self._draw()

    def _end_epoch(self, trainer: pl.Trainer) -> None:
        """Add the row of the epoch before, if it has not been added, and begin with the next."""
        epoch, row = trainer.current_epoch - 1, self._numbers(trainer)
        # A run resumed at the end of an epoch begins the next one, and has that row already.
        is_new = not self.rows or self.rows[-1]["epoch"] < epoch or self._lr is not None
        # a pretraining has no accuracy
        is_trained = "train/acc" in row or "train/loss_epoch" in row
        if is_trained and is_new and trainer.is_global_zero:
            self.rows = [row for row in self.rows if row["epoch"] < epoch]  # or one of a part of it
            self.rows.append({"epoch": epoch, "step": trainer.global_step, **row})
            self._write()
            for listener in self.listeners if self._lr is not None else ():
                listener.epoch_done(trainer, self.rows)
        self._validated, self.is_best, self._before, self._lr = False, False, {}, None
        self._began = time.monotonic()

    def _write(self) -> None:
        if self.run is None:
            return
        path = self.run / HISTORY_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        # Rewritten whole: a column such as val/acc can appear after the first row.
        known = {name for row in self.rows for name in row}
        names = [name for name in ("epoch", "step", "seconds", *HISTORY_COLUMNS) if name in known]
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)

    def _numbers(self, trainer: pl.Trainer) -> Row:
        """Of this epoch so far, with what was before it was resumed."""
        # callback_metrics keeps old scores: those of validation may be of an earlier epoch.
        found = trainer.callback_metrics
        scores = {
            name: float(found[name])
            for name in HISTORY_COLUMNS
            if name in found
            and name != "lr"  # loggers get it in some steps only
            and (self._validated or not name.startswith("val/"))
        }
        spent = self._before.get("seconds", 0.0) + time.monotonic() - self._began
        rate = {} if self._lr is None else {"lr": self._lr}
        best = max(self._before.get("best", 0.0), float(self.is_best))
        return self._before | scores | rate | {"seconds": spent, "best": best}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the rows with the weights; history.csv may hold epochs that are trained again."""
        checkpoint["history"] = {
            "rows": self.rows,
            "validated": self._validated,
            "scores": self._numbers(trainer),
            "best": self._best,
            "run": None if self.run is None else run_name(self.run),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        found = checkpoint.get("history", {})
        self.rows = list(found.get("rows", []))
        self._before = dict(found.get("scores", {}))
        self._validated = found.get("validated", False)
        # Another run has its own best.ckpt to find.
        is_same = self.run is not None and found.get("run") == run_name(self.run)
        self._best = found.get("best") if is_same else None

    @rank_zero_only
    def _draw(self) -> None:
        if not self.rows or self.run is None:
            return
        figure = new_figure(HISTORY_INCHES)
        self.draw_on(figure)
        with replacing(self.run / "history.png") as part:
            figure.savefig(part, format="png")

    def draw_on(self, figure: Figure | SubFigure) -> None:
        """Draw the curves of the epochs so far on a figure, or a part of one."""
        points = {
            # counted from 1, as the lines of the epochs are
            name: [(row["epoch"] + 1, row[name]) for row in self.rows if name in row]
            for name in HISTORY_COLUMNS
        }
        best = [row["epoch"] + 1 for row in self.rows if row.get("best")]
        draw_history(figure, points, best=best[-1] if best else None)


# title of a panel -> {label of a line: the name that training logs}
HISTORY_PANELS = {
    "loss": {"train": "train/loss_epoch", "val": "val/loss"},
    "top-1 accuracy": {"train": "train/acc", "val": "val/acc"},
    "mean average precision": {"val": "val/map"},
    "F1": {"train": "train/f1", "val": "val/f1"},
    "mean absolute error": {"train": "train/mae", "val": "val/mae"},
    "learning rate": {"": "lr"},
}


def draw_history(
    figure: Figure | SubFigure,
    history: Mapping[str, Sequence[tuple[float, float]]],
    best: float | None = None,
) -> None:
    """Loss, the scores of the task and learning rate by epoch, for training and validation.

    figure: empty, whole or a part; history: pairs of epoch and value by the names that training
    logs (``train/loss_epoch val/loss train/acc val/acc lr`` and more). Names without values are not
    drawn. best: the epoch of the best checkpoint, which is marked.
    """
    panels = {
        title: {line: name for line, name in lines.items() if history.get(name)}
        for title, lines in HISTORY_PANELS.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    shown = {
        epoch for lines in panels.values() for name in lines.values() for epoch, _ in history[name]
    }
    for i, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), i)
        for line, name in lines.items():
            _draw_panel(axes, history[name], line)
        if best is not None:
            axes.axvline(
                best, color=GREY, linestyle=":", linewidth=1, label=f"best: epoch {best:g}"
            )
        axes.set_title(title, fontsize=FONT_SMALL)
        axes.set_xlabel("epoch")
        if len(lines) > 1 or best is not None:
            axes.legend(fontsize=FONT_TINY, frameon=False)
        tidy_axes(axes)
        if len(shown) == 1:  # else matplotlib labels fractions of the single epoch
            axes.set(xlim=(min(shown) - 1, min(shown) + 1), xticks=[min(shown)])
        if "lr" in lines.values():
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:g}")


def _draw_panel(axes: Axes, points: Sequence[tuple[float, float]], line: str) -> None:
    epochs, values = zip(*sorted(points), strict=True)
    axes.plot(
        epochs,
        values,
        color=VERMILION if line == "val" else BLUE,
        marker="." if len(epochs) < 30 else "",  # markers hide the line where they are dense
        linewidth=1.2,
        label=line,
    )
