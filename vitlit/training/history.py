"""The history of a run: ``history.csv`` and ``history.png``.

scores of each epoch -> a row of the table, a point of the figure
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only

from vitlit.files import replacing
from vitlit.plotting import BLUE, FONT_SMALL, FONT_TINY, VERMILION, new_figure, tidy_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TRAINING_COLUMNS = ("lr", "train/loss_epoch", "train/acc", "train/acc5")
HISTORY_COLUMNS = (*TRAINING_COLUMNS, "val/loss", "val/acc", "val/acc5", "val/balanced_acc")


class History(Callback):
    """Keeps history.csv and history.png in the run's folder, with a row and a point for each epoch.

    A row is added when the next epoch starts, or the training ends. ``on_train_epoch_end`` of a
    callback is too early: Lightning calls the module's after it, which logs the training scores.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._validated = False  # whether callback_metrics holds validation scores of this epoch
        self._before: dict[str, float] = {}  # scores of this epoch from before it was resumed
        self._folder: str | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # On every process: log_dir is a broadcast, so asking on the first one alone would hang.
        self._folder = trainer.log_dir

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._add(trainer.current_epoch - 1, trainer.global_step, self._scores(trainer))
        self._validated, self._before = False, {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._add(trainer.current_epoch - 1, trainer.global_step, self._scores(trainer))
        self._draw()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Draw the epochs so far. A full disk may be the very error, so a failure is ignored."""
        with suppress(OSError):
            self._draw()

    @rank_zero_only
    def _add(self, epoch: int, step: int, scores: dict[str, float]) -> None:
        # A run resumed at the end of an epoch begins the next one, and has that row already.
        is_new = not self.rows or self.rows[-1]["epoch"] < epoch
        if "train/acc" not in scores or self._folder is None or not is_new:
            return
        self.rows.append({"epoch": epoch, "step": step, **scores})
        path = Path(self._folder) / "history.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Rewritten whole: a column such as val/acc can appear after the first row.
        names = ["epoch", "step", *(name for name in HISTORY_COLUMNS if name in self._known())]
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def _scores(self, trainer: pl.Trainer) -> dict[str, float]:
        # callback_metrics keeps old scores: those of validation may be of an earlier epoch.
        found = trainer.callback_metrics
        names = [name for name in HISTORY_COLUMNS if name in found]
        return self._before | {
            name: float(found[name])
            for name in names
            if self._validated or not name.startswith("val/")
        }

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the rows with the weights; history.csv may hold epochs that are trained again."""
        checkpoint["history"] = {
            "rows": self.rows,
            "validated": self._validated,
            "scores": self._scores(trainer),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        found = checkpoint.get("history", {})
        self.rows = list(found.get("rows", []))
        self._before = dict(found.get("scores", {}))
        self._validated = found.get("validated", False)

    def _known(self) -> set[str]:
        return {name for row in self.rows for name in row}

    @rank_zero_only
    def _draw(self) -> None:
        if not self.rows or self._folder is None:
            return
        points = {
            name: [(row["epoch"], row[name]) for row in self.rows if name in row]
            for name in HISTORY_COLUMNS
        }
        path = Path(self._folder) / "history.png"
        with replacing(path) as part:
            training_history(points).savefig(part, format="png")


# title of a panel -> {label of a line: the name that training logs}
HISTORY_PANELS = {
    "loss": {"train": "train/loss_epoch", "val": "val/loss"},
    "top-1 accuracy": {"train": "train/acc", "val": "val/acc"},
    "learning rate": {"": "lr"},
}


def training_history(history: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Loss, top-1 accuracy and learning rate by epoch, for training and validation.

    history: pairs of epoch and value by the names that training logs (``train/loss_epoch val/loss
    train/acc val/acc lr``). Names without values are not drawn.
    """
    panels = {
        title: {line: name for line, name in lines.items() if history.get(name)}
        for title, lines in HISTORY_PANELS.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    shown = {
        epoch for lines in panels.values() for name in lines.values() for epoch, _ in history[name]
    }
    figure = new_figure(2.8)
    for i, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), i)
        for line, name in lines.items():
            _draw_panel(axes, history[name], line)
        axes.set_title(title, fontsize=FONT_SMALL)
        axes.set_xlabel("epoch")
        if len(lines) > 1:
            axes.legend(fontsize=FONT_TINY, frameon=False)
        tidy_axes(axes)
        if len(shown) == 1:  # else matplotlib labels fractions of the single epoch
            axes.set(xlim=(min(shown) - 1, min(shown) + 1), xticks=[min(shown)])
        if "lr" in lines.values():
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:g}")
    return figure


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
