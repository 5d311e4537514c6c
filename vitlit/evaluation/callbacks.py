"""Reports through Lightning, which several processes need: hooks for a report."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.evaluation.inference import Processes
from vitlit.evaluation.report import Report, Tested
from vitlit.evaluation.scoring import Scoring


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
    gather: Any = module.all_gather if trainer.world_size > 1 else None
    agree = trainer.strategy.reduce_boolean_decision
    return Processes(trainer.world_size, trainer.is_global_zero, gather, agree)
