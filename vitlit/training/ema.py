"""An exponential moving average of the weights."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


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
