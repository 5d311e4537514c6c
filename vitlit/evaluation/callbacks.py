"""Reports through Lightning, which several processes need: hooks for a report, and for a summary.

logits (B, K) of each batch of a validation -> predicted class, probability -> summary.png
"""

from pathlib import Path, PurePath
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.data.splits import Split
from vitlit.errors import say
from vitlit.evaluation.figures import SHEET_COLUMNS, Summary, summary_figure
from vitlit.evaluation.inference import Collector, Processes, Rows, gather_rows
from vitlit.evaluation.report import Report, Tested
from vitlit.evaluation.scores import pair_counts
from vitlit.evaluation.scoring import Scoring
from vitlit.files import SUMMARY_PICTURE, printable, replacing
from vitlit.plotting import FONT_TINY, SHEET_ROOM, verdict_line


class WriteReport(Callback):
    """Hands what a Trainer tests to a report."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.report.begin()  # anew, if one trainer tests twice

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.report.add(outputs, batch)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning logs the scores at the step of this name; its own count begins anew in a test.
        pl_module.log("step", float(self.report.step))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Scoring)

        def compute(x: Tensor) -> Tensor:
            with trainer.precision_plugin.forward_context():
                return pl_module.logits(x)

        tested = Tested(
            data=trainer.datamodule,  # type: ignore[attr-defined]
            compute=compute,
            device=pl_module.device,
            class_names=pl_module.class_names,  # type: ignore[arg-type]
            is_debug=trainer.fast_dev_run,  # type: ignore[attr-defined]
            task=pl_module.task,
        )
        self.report.finish(tested, trainer.loggers, processes_of(trainer, pl_module))


def processes_of(trainer: pl.Trainer, module: pl.LightningModule) -> Processes:
    """The processes of a command, for what gathers from them."""
    gather = gather_rows if trainer.world_size > 1 else None
    agree = trainer.strategy.reduce_boolean_decision
    return Processes(trainer.world_size, trainer.is_global_zero, gather, agree)


class Curves(Protocol):
    """The history of a run: whether this epoch is the best so far, and its curves."""

    is_best: bool

    def draw_on(self, figure: Any) -> None:
        """Draw loss, accuracy and learning rate by epoch on a figure or a part of one."""


class WriteSummary(Callback):
    """Draws summary.png at the end of a training: curves, confusion, and some predictions.

    It keeps the predicted class and its probability of every image of a validation, that of the
    best epoch, so no data are read again but the few images that are shown. After a resume the best
    epoch may have been before it: then it shows the last one.

    run: the folder; curves: must come before this callback in the list.
    """

    def __init__(self, run: Path, curves: Curves) -> None:
        self.run, self.curves = run, curves
        self._current = Collector()
        self._kept: Collector | None = None
        self._words = ""  # of which epoch the predictions are
        self._has_best = False  # whether they are of the best epoch

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._current = Collector()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking and isinstance(outputs, Tensor) and outputs.ndim == 2:
            top = outputs.float().softmax(dim=1).max(dim=1)
            self._current.add(torch.stack([top.indices.float(), top.values], dim=1), batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not self._current:
            return
        is_best = self.curves.is_best
        if is_best or not self._has_best:
            what = "the best" if is_best else "the last: the best was before a resume"
            self._words = f"epoch {trainer.current_epoch + 1}, {what}"
            self._kept, self._has_best = self._current, is_best

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._kept is None:  # resumed at its end: there was no validation
            return
        rows = self._kept.rows(processes_of(trainer, pl_module).gather)
        if trainer.is_global_zero:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            try:
                self._draw(rows, data.splits["val"], data)
            except OSError as error:  # the weights are what counts
                say(f"cannot write {self.run / SUMMARY_PICTURE}: {error.strerror or error}")

    def _draw(self, rows: Rows, split: Split, data: Any) -> None:
        """Draw the summary. rows: (predicted class, its probability) of images of the split."""
        names, predicted = data.class_names, rows.values[:, 0].long()
        shown = chosen_rows(rows)
        files = split.names(rows.sample[shown].tolist(), f"{data.dataset} val")
        words = [
            f"{PurePath(file).name}\ntrue {printable(names[label])}\n"
            + verdict_line(names[top], sure, None, SHEET_ROOM, FONT_TINY)
            for file, label, top, sure in zip(
                files,
                rows.labels[shown].tolist(),
                predicted[shown].tolist(),
                rows.values[shown, 1].tolist(),
                strict=True,
            )
        ]
        summary = Summary(
            matrix=pair_counts(rows.labels, predicted, len(names)),
            class_names=names,
            pictures=split.pictures(rows.sample[shown]),
            words=words,
            is_right=(predicted == rows.labels)[shown].tolist(),
            title=f"{len(predicted):,} validation images at {self._words}",
        )
        figure = summary_figure(summary, self.curves.draw_on)
        with replacing(self.run / SUMMARY_PICTURE) as part:
            figure.savefig(part, format="png")


def chosen_rows(rows: Rows) -> list[int]:
    """Images to show: half are the most confident mistakes, the others spread over the right ones.

    rows: (predicted class, its probability) ``(n, 2)``; equal probabilities keep their order.
    """
    wrong = rows.values[:, 0].long() != rows.labels
    order = rows.values[:, 1].argsort(descending=True, stable=True)
    mistakes = order[wrong[order]][:SHEET_COLUMNS].tolist()
    right = (~wrong).nonzero()[:, 0]
    # of each class in turn, as many as there is room for
    right = right[rows.labels[right].argsort(stable=True)]
    count = min(len(right), 2 * SHEET_COLUMNS - len(mistakes))
    places = torch.linspace(0, max(0, len(right) - 1), count).round().long()
    return [*mistakes, *right[places].tolist()]
