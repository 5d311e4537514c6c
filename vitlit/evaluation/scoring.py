"""The evaluation half of the Lightning module, and the callback that reports what it tests.

Batch -> logits (B, num_classes) -> loss, top-1, top-5 | probabilities (B, num_classes)
                                                       | features (B, D), or patch tokens (B, N, D)
"""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.evaluation.inference import Processes, answer, flip_average, gather_rows
from vitlit.evaluation.report import Report, Tested, metrics_prefix
from vitlit.model.features import AnyFeature
from vitlit.model.vit import ViT
from vitlit.tasks.task import SplitScores, Task


class Scoring(pl.LightningModule):
    """What a Classifier does in ``validate``, ``test`` and ``predict``.

    flip: whether ``test`` averages the logits of each image and its mirror image; metrics are then
    called test+flip/acc and so on. feature: what ``predict`` gives in place of probabilities.
    scored: number of images that the last evaluation counted.
    """

    vit: ViT
    keep_learned: Callable[[dict[str, Any]], None]  # TrainableViT's
    task: Task
    flip: bool = False
    feature: AnyFeature | None = None
    scored: int = 0

    def configure_scoring(self, *, flip: bool = False, feature: AnyFeature | None = None) -> None:
        """Set what ``test`` averages and what ``predict`` gives; the defaults undo both."""
        self.flip, self.feature = flip, feature

    def _add_metrics(self, task: Task) -> None:
        # two sets: validation within a training must not mix with a test
        self.val_metrics = task.scores(self.vit.num_classes)
        self.test_metrics = task.scores(self.vit.num_classes)

    def _score(self, batch: Batch, logits: Tensor, scores: SplitScores) -> None:
        scores.update(logits, self.task.without_fillers(batch.y, batch.valid))

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits ``(B, num_classes)``, of which the callback that draws the summary keeps a few."""
        logits = self(batch.x)
        self._score(batch, logits, self.val_metrics)
        return logits

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val", self.val_metrics)

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` as ``test`` scores them; with flip the mean of two."""
        return flip_average(self, x, self.vit) if self.flip else self(x)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits ``(B, num_classes)``, which the callback that writes the report collects."""
        logits = self.logits(batch.x)
        self._score(batch, logits, self.test_metrics)
        return logits

    def on_test_epoch_end(self) -> None:
        self._log_metrics(self.tested, self.test_metrics)

    @property
    def tested(self) -> str:
        """The prefix of the metrics' names in ``test``: the split, and +flip if averaged."""
        data = getattr(self.trainer, "datamodule", None)
        return metrics_prefix(getattr(data, "split", "test"), flip=self.flip)

    def _log_metrics(self, prefix: str, metrics: SplitScores) -> None:
        reduce = self.trainer.strategy.reduce
        # clone: processes reduce in place
        several = {"gather": gather_rows} if self.trainer.world_size > 1 else {}
        values = metrics.compute(lambda own: reduce(own.clone(), reduce_op="sum"), **several)
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.keep_learned(self.task.fitted(metrics))
        self.scored = int(values.pop("count"))
        for name, value in values.items():
            # values, not metrics: they are complete, and Lightning need not reduce them again
            self.log(f"{prefix}/{name}", value, prog_bar=name == self.task.monitors[0])
        metrics.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Answers float32 ``(B, num_classes)``, such as probabilities, or features ``(B, D)``."""
        # the data are float32, the model may be another type
        return answer(self, self.vit, self.feature, batch.x.to(self.dtype), self.task)


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
