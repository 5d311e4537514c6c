"""summary.png: what a training came to, drawn at its end from its best validation.

logits (B, K) of each batch -> what is kept of the best epoch -> curves, what was right, some images
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.data.splits import Split
from vitlit.errors import say
from vitlit.evaluation.figures import (
    SHEET_COLUMNS,
    Outcome,
    bars_height,
    draw_class_bars,
    draw_matrix,
    matrix_size,
    matrix_title,
    summary_figure,
)
from vitlit.evaluation.inference import NOT_FINITE, Collector, Rows
from vitlit.evaluation.multi_label_report import most_wrong, multi_label_classes
from vitlit.evaluation.regression_report import draw_errors, draw_scatter
from vitlit.evaluation.scores import pair_counts
from vitlit.evaluation.scoring import Scoring, processes_of
from vitlit.files import SUMMARY_PICTURE, printable, replacing
from vitlit.plotting import FONT_TINY, SHEET_ROOM, WIDTH_INCHES, verdict_line
from vitlit.tasks.multi_label import MultiLabel
from vitlit.tasks.regression_scores import error_scores
from vitlit.tasks.task import Task, TaskName

SUMMARY_CLASSES = 12  # of which bars are drawn, if an image may have several classes
SCATTER_INCHES = 3.2  # height of predicted by true numbers


class Curves(Protocol):
    """The history of a run: whether this epoch is the best so far, and its curves."""

    is_best: bool

    def draw_on(self, figure: Any) -> None:
        """Draw loss, accuracy and learning rate by epoch on a figure or a part of one."""


class WriteSummary(Callback):
    """Draws summary.png at the end of a training: curves, what was right, and some predictions.

    It keeps what was predicted for every image of a validation, that of the best epoch, so no data
    are read again but the few images that are shown. After a resume the best epoch may have been
    before it: then it shows the last one.

    run: the folder; curves: must come before this callback in the list.
    """

    def __init__(self, run: Path, curves: Curves) -> None:
        self.run, self.curves = run, curves
        self._current = Collector()
        self._kept: tuple[Collector, Task] | None = None  # with the thresholds of its epoch
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
            self._current.add(kept_of(outputs, cast(Scoring, pl_module).task), batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not self._current:
            return
        is_best = self.curves.is_best
        if is_best or not self._has_best:
            what = "the best" if is_best else "the last: the best was before a resume"
            self._words = f"epoch {trainer.current_epoch + 1}, {what}"
            task = cast(Scoring, pl_module).task
            # a copy of the settings, into which later validations write
            self._kept = (self._current, type(task)(dict(task.settings)))
            self._has_best = is_best

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._kept is None:  # resumed at its end: there was no validation
            return
        collected, task = self._kept
        rows = collected.rows(processes_of(trainer, pl_module).gather)
        if not trainer.is_global_zero:
            return
        if not rows.values.isfinite().all():
            say(f"no {SUMMARY_PICTURE}: {NOT_FINITE} for a validation image")
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        try:
            self._draw(rows, task, data.splits["val"], data)
        except OSError as error:  # the weights are what counts
            say(f"cannot write {self.run / SUMMARY_PICTURE}: {error.strerror or error}")

    def _draw(self, rows: Rows, task: Task, split: Split, data: Any) -> None:
        """Draw the summary. rows: what is kept of images of the split."""
        found = OUTCOMES[task.name](rows, data.class_names, task)
        places = rows.sample[list(found.shown)]
        files = split.names(places.tolist(), f"{data.dataset} val")
        words = [
            f"{printable(PurePath(file).name)}\n{text}"
            for file, text in zip(files, found.words, strict=True)
        ]
        title = f"{found.scores}; {len(rows.labels):,} validation images at {self._words}"
        figure = summary_figure(
            found._replace(words=words),
            split.pictures(places),
            title + found.note,
            self.curves.draw_on,
        )
        with replacing(self.run / SUMMARY_PICTURE) as part:
            figure.savefig(part, format="png")


def kept_of(logits: Tensor, task: Task) -> Tensor:
    """What is kept of each image of a batch, float32: for one class the class and its probability.

    logits: ``(B, K)``; returns ``(B, 2)``, and ``(B, K)`` of the other tasks. The logits of a
    thousand classes would take 200 MB for 50,000 images.
    """
    if task.name != "single_label":
        return logits.float()
    top = logits.float().softmax(dim=1).max(dim=1)
    return torch.stack([top.indices.float(), top.values], dim=1)


def one_class(rows: Rows, names: Sequence[str], task: Task) -> Outcome:
    """The confusion matrix. rows: (predicted class, its probability) of each image."""
    predicted = rows.values[:, 0].long()
    confusion = pair_counts(rows.labels, predicted, len(names))
    shown = chosen_rows(rows)
    true, said, sure = (x[shown].tolist() for x in (rows.labels, predicted, rows.values[:, 1]))
    words = [
        f"true {printable(names[label])}\n"
        + verdict_line(names[top], probability, None, SHEET_ROOM, FONT_TINY)
        for label, top, probability in zip(true, said, sure, strict=True)
    ]
    return Outcome(
        *matrix_title(confusion),
        draw=lambda figure: draw_matrix(figure, confusion, names),
        size=matrix_size(confusion, names),
        shown=shown,
        words=words,
        is_right=(predicted == rows.labels)[shown].tolist(),
    )


def several_classes(rows: Rows, names: Sequence[str], task: Task) -> Outcome:
    """Average precision and F1 by class. rows: logits ``(n, K)``, targets of 0 and 1 ``(n, K)``.

    Shown are the images with the surest wrong labels, and some of those without a wrong one.
    """
    assert isinstance(task, MultiLabel)
    thresholds, probabilities = task.thresholds(len(names)), task.answers(rows.values)
    classes = multi_label_classes(rows.values, rows.labels, thresholds, names)
    given = (probabilities > thresholds).float()
    wrong = most_wrong(probabilities, rows.labels, thresholds)[:, 0].tolist()
    mistakes = list(dict.fromkeys(wrong))[:SHEET_COLUMNS]  # an image once
    right = (given == rows.labels).all(dim=1).nonzero()[:, 0]
    shown = [*mistakes, *evenly(right, 2 * SHEET_COLUMNS - len(mistakes))]
    which = f"; {SUMMARY_CLASSES} of {len(names)} classes, those with the lowest precision"
    if len(names) <= SUMMARY_CLASSES:
        which = ""
    return Outcome(
        scores=f"mean average precision {_mean(one['ap'] for one in classes.values()):.4f}",
        note="; F1 by thresholds that fit these images" + which,
        draw=lambda figure: draw_class_bars(figure, classes, SUMMARY_CLASSES),
        size=(WIDTH_INCHES, bars_height(min(len(names), SUMMARY_CLASSES))),
        shown=shown,
        words=[
            f"true {printable(task.target_words(rows.labels[row], names))}\n"
            f"predicted {printable(task.target_words(given[row], names))}"
            for row in shown
        ],
        is_right=[row not in mistakes for row in shown],
        legend="blue: all labels right, orange: the surest wrong labels",
    )


def _mean(values: Iterable[float | None]) -> float:
    """The mean of those that are known; 0 of none."""
    known = [value for value in values if value is not None]
    return sum(known) / max(1, len(known))


def numbers(rows: Rows, names: Sequence[str], task: Task) -> Outcome:
    """Predicted by true numbers, and the errors. rows: outputs ``(n, 1)``, targets ``(n, 1)``.

    Shown are the images with the largest errors, and some of the others, by their true numbers.
    """
    answers, wanted = task.answers(rows.values)[:, 0], rows.labels[:, 0]
    scores = error_scores(answers, wanted)
    order = (answers - wanted).abs().argsort(descending=True, stable=True)
    worst, others = order[:SHEET_COLUMNS], order[SHEET_COLUMNS:]
    others = others[wanted[others].argsort(stable=True)]
    shown = [*worst.tolist(), *evenly(others, 2 * SHEET_COLUMNS - len(worst))]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        draw_scatter(left, answers, wanted, names[0])
        draw_errors(right, answers - wanted)

    return Outcome(
        scores=f"MAE {scores['mae']:.4g}, R2 {scores['r2']:.4f}",
        note="",
        draw=draw,
        size=(WIDTH_INCHES, SCATTER_INCHES),
        shown=shown,
        words=[
            f"true {true:.6g}\npredicted {said:.4g} ({said - true:+.4g})"
            for true, said in zip(wanted[shown].tolist(), answers[shown].tolist(), strict=True)
        ],
        is_right=[place >= len(worst) for place in range(len(shown))],
        legend="orange: the largest errors, blue: others, by their true values",
    )


OUTCOMES: dict[TaskName, Callable[[Rows, Sequence[str], Task], Outcome]] = {
    "single_label": one_class,
    "multi_label": several_classes,
    "regression": numbers,
}


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
    return [*mistakes, *evenly(right, 2 * SHEET_COLUMNS - len(mistakes))]


def evenly(rows: Tensor, most: int) -> list[int]:
    """At most so many of the rows ``(n,)``, from the first to the last."""
    places = torch.linspace(0, max(0, len(rows) - 1), min(len(rows), most)).round().long()
    return cast(list[int], rows[places].tolist())
