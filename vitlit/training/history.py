"""What a training leaves behind to look at: history.csv, history.png, pictures in TensorBoard.

scores of each epoch -> a row, a figure; a few validation images -> rollout, positions, filters
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
    """Keeps history.csv and history.png, a row and a point for each epoch, in the run's folder.

    The scores of an epoch are complete when the next one starts, or the training ends.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._validated = False  # whether the scores of validation are of this epoch
        self._before: dict[str, float] = {}  # scores of this epoch from before it was resumed
        self._folder: str | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._folder = trainer.log_dir  # asked of all processes: it waits for each of them

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
        """A training that is cut short shows the epochs it had, if there is room for a picture."""
        with suppress(OSError):
            self._draw()

    @rank_zero_only
    def _add(self, epoch: int, step: int, scores: dict[str, float]) -> None:
        is_new = not self.rows or self.rows[-1]["epoch"] < epoch
        if "train/acc" not in scores or self._folder is None or not is_new:
            return
        self.rows.append({"epoch": epoch, "step": step, **scores})
        path = Path(self._folder) / "history.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        names = ["epoch", "step", *(name for name in HISTORY_COLUMNS if name in self._known())]
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def _scores(self, trainer: pl.Trainer) -> dict[str, float]:
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
        """Rows go with the weights: those of a file may be of epochs that are trained again."""
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


# titles of the panels -> the names that training logs, by the name of the line
HISTORY_PANELS = {
    "loss": {"train": "train/loss_epoch", "val": "val/loss"},
    "top-1 accuracy": {"train": "train/acc", "val": "val/acc"},
    "learning rate": {"": "lr"},
}


def training_history(history: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Loss, top-1 accuracy and learning rate by epoch, of training and validation.

    history: by the names that training logs (``train/loss_epoch val/loss train/acc val/acc lr``),
    pairs of epoch and value. What is missing is left out.
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
        if len(shown) == 1:  # matplotlib would divide the one epoch, and label its parts
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
        marker="." if len(epochs) < 30 else "",
        linewidth=1.2,
        label=line,
    )
