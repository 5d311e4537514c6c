"""Callbacks that Lightning lacks."""

import csv
import os
import time
from pathlib import Path
from typing import Any, Literal
from weakref import proxy

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vitlit.data.sampler import Batch
from vitlit.errors import InputError, check_at_least
from vitlit.images.bad_images import print_bad_images, refuse_bad_images
from vitlit.images.image_io import printable
from vitlit.images.image_store import BadFile

PREDICTIONS_FILE = "predictions.csv"
CLOCK_STEPS = 10  # steps between two looks at the clock where processes must agree on it
PRINTED_ROWS = 10  # rows that predict prints


Monitor = Literal["val/acc", "val/balanced_acc", "val/loss"]


def monitor_mode(monitor: str) -> Literal["min", "max"]:
    """Whether the lowest or the highest of a score is the best."""
    return "min" if monitor.endswith("loss") else "max"


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint of one fixed name, in ``folder`` or else where Lightning's loggers write."""

    def __init__(self, folder: Path | None, **settings: Any) -> None:
        super().__init__(folder, enable_version_counter=False, **settings)

    @property
    def state_key(self) -> str:
        """Short, since Lightning asks for it in every hook of every step."""
        return type(self).__name__

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The score to beat, if the state is of this run; no path in a file is trusted."""
        name = Path(str(state_dict.get("dirpath"))).parent.name
        score = state_dict.get("best_model_score")
        is_same = state_dict.get("monitor") == self.monitor
        is_own = name == Path(str(self.dirpath)).parent.name
        if not (is_same and is_own and isinstance(score, Tensor)):
            return
        path = str(Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}")
        self.best_model_path = self.kth_best_model_path = path
        self.best_model_score = self.kth_value = score
        self.best_k_models = {path: score}


class BestCheckpoint(RunCheckpoint):
    """Keeps best.ckpt, of the best score, in the run's folder.

    Of equal scores the later one wins: it was trained longer, and small validation sets tie often.
    monitor: the score, of which the lowest is best if it is a loss.
    """

    def __init__(self, folder: Path | None = None, monitor: Monitor = "val/acc") -> None:
        super().__init__(folder, monitor=monitor, mode=monitor_mode(monitor), filename="best")

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        best = self.best_model_score
        is_tie = current is not None and best is not None and bool(current == best)
        return is_tie or super().check_monitor_top_k(trainer, current)


class LastCheckpoint(RunCheckpoint):
    """Keeps last.ckpt, of the end of the last epoch, and of a step within one where asked.

    Within an epoch it saves after complete optimiser steps, before the validation that may follow,
    and after each validation. (Lightning's ``save_last`` skips epochs without a best.)

    Args:
        folder: Where; by default where Lightning's loggers write.
        every_n_steps: Optimiser steps between two saves; 0 saves at the end of epochs alone.
        every_minutes: Minutes between two saves; 0 saves at the end of epochs alone.
    """

    def __init__(
        self, folder: Path | None = None, every_n_steps: int = 0, every_minutes: float = 0.0
    ) -> None:
        super().__init__(folder, filename="last", save_on_train_epoch_end=True)
        check_at_least(0, every_n_steps=every_n_steps, every_minutes=every_minutes)
        self.every_n_steps, self.every_minutes = every_n_steps, every_minutes
        self._saved_at = time.monotonic()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: it has no score to beat."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not (self.every_n_steps or self.every_minutes) or is_within_step(trainer):
            return
        is_due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if is_due or self._is_late(trainer):
            self.save(trainer)

    def _is_late(self, trainer: pl.Trainer) -> bool:
        several = trainer.world_size > 1
        if not self.every_minutes or (several and trainer.global_step % CLOCK_STEPS):
            return False
        is_late = time.monotonic() - self._saved_at >= 60 * self.every_minutes
        return bool(trainer.strategy.broadcast(is_late))  # the clocks of processes differ

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        is_last = progress.ready >= trainer.num_training_batches  # saved in a moment
        if not (self._should_skip(trainer) or is_last or is_within_step(trainer)):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._should_skip(trainer):
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Save now; to be called by all processes."""
        self.best_model_path = self.format_checkpoint_name({})
        trainer.save_checkpoint(self.best_model_path)
        for logger in trainer.loggers if trainer.is_global_zero else []:
            logger.after_save_checkpoint(proxy(self))
        self._saved_at = time.monotonic()

    def _should_skip(self, trainer: pl.Trainer) -> bool:
        is_fit = trainer.state.fn == TrainerFn.FITTING
        return trainer.sanity_checking or not is_fit


def is_within_step(trainer: pl.Trainer) -> bool:
    """Whether gradients wait for more batches: a checkpoint would lose them."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    done = progress.current.ready
    if done % trainer.accumulate_grad_batches == 0:
        return False
    is_last = progress.is_last_batch or done == trainer.num_training_batches
    return trainer.strategy.handles_gradient_accumulation or not is_last


def free_path(path: Path) -> Path:
    """``path``, or with -2, -3, … before the ending, whichever does not exist yet."""
    number = 2
    candidate = path
    while candidate.exists():
        candidate = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return candidate


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights; validation and checkpoints use it.

    What is kept of the average in a step rises from 2/11 to ``decay``, as (1 + n) / (10 + n) after
    n steps, so that short runs forget the weights they started from.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.decay = decay
        self._count = torch.zeros((), dtype=torch.long)  # of steps in the average

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        for average in vars(self).values():  # Lightning has no public name for it
            if isinstance(average, AveragedModel):
                # a count on the CPU: no step waits for the device (PyTorch pull request 175085)
                self._count = average.n_averaged = average.n_averaged.cpu()

    def _average(self, averages: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        done = int(self._count)
        decay = min(self.decay, (1 + done) / (10 + done))
        # the average is a copy from before the weights took the precision of the run
        same = [weight.to(average) for weight, average in zip(weights, averages, strict=True)]
        get_ema_multi_avg_fn(decay)(averages, same, count)  # type: ignore[no-untyped-call]


class PredictionWriter(Callback):
    """Writes what ``predict`` finds: one row for each image, in the order they were given.

    Columns: file, class, probability, top5 (``name:probability`` joined by semicolons). Files
    that cannot be read have no row, and are listed on the screen.
    """

    def __init__(self, out: str | None, class_names: list[str]) -> None:
        self.class_names = class_names
        if out is not None and Path(out).exists():
            raise InputError(f"{out} exists; give another name, or remove it", argument="out")
        self.path = Path(out) if out else free_path(Path(PREDICTIONS_FILE))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder of {self.path}: {error}") from error
        if not os.access(self.path.parent, os.W_OK):
            raise InputError(
                f"cannot write into {self.path.parent.absolute()}; give another file",
                argument="out",
            )
        self._found: list[tuple[int, list[float], list[int]]] = []
        self._bad: list[tuple[int, str]] = []

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        top = outputs.topk(min(5, outputs.shape[1]), dim=1)
        rows = zip(
            batch.sample.tolist(),
            batch.valid.tolist(),
            top.values.tolist(),
            top.indices.tolist(),
            strict=True,
        )
        self._found += [(i, values, classes) for i, valid, values, classes in rows if valid]
        self._bad += batch.bad

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = sorted(gather_lists(self._found, trainer.world_size))
        files = trainer.datamodule.files  # type: ignore[attr-defined]
        bad = self._bad_files(files, len(found), trainer.world_size)
        if not trainer.is_global_zero:
            return
        rows = [self._row(files[i], values, classes) for i, values, classes in found]
        # surrogateescape: names that are not UTF-8 are written as they are on disk
        with self.path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "class", "probability", "top5"])
            writer.writerows(rows)
        self._show(rows)
        print_bad_images(bad, len(rows))

    def _bad_files(self, files: list[str], good: int, world: int) -> list[BadFile]:
        """Those that could not be read, of all processes; refused where none could."""
        reasons = dict(gather_lists(self._bad, world))  # once, where rows fill a batch up
        bad = [BadFile(i, files[i], reasons[i]) for i in sorted(reasons)]
        if not good:
            refuse_bad_images(bad, len(bad), "mend them, or give other images", argument="images")
        return bad

    def _row(self, file: str, values: list[float], classes: list[int]) -> list[str]:
        names = [self.class_names[i] for i in classes]
        top5 = ";".join(f"{name}:{value:.4f}" for name, value in zip(names, values, strict=True))
        return [file, names[0], f"{values[0]:.4f}", top5]

    def _show(self, rows: list[list[str]]) -> None:
        names = [printable(row[0]) for row in rows[:PRINTED_ROWS]]
        width = max(map(len, names))
        for file, (_, name, probability, _) in zip(names, rows, strict=False):
            print(f"{file:{width}}  {probability}  {name}")
        if len(rows) > PRINTED_ROWS:
            print(f"… and {len(rows) - PRINTED_ROWS} more")


def gather_lists(mine: list[Any], world: int) -> list[Any]:
    """The lists of all processes in one."""
    if world == 1:
        return mine
    lists: list[Any] = [None] * world
    torch.distributed.all_gather_object(lists, mine)
    return [item for items in lists for item in items]
