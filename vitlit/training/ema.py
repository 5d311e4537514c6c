"""An exponential moving average of the weights.

weights after each optimiser step -> their average, which is validated and saved
"""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights; validation and checkpoints use it.

    decay: share of the average that each step keeps, in [0, 1). After n steps the share is
    min(decay, (1 + n) / (10 + n)), so that short runs forget the weights they started from.
    """

    def __init__(self, decay: float) -> None:
        # The buffers are constants (class weights, fixed positions): there is nothing to average.
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.decay = decay
        self._count = torch.zeros((), dtype=torch.long)  # optimiser steps in the average

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        for average in vars(self).values():  # Lightning has no public name for the average
            if isinstance(average, AveragedModel):
                # On the CPU, so that reading it makes no step wait for the device (PyTorch pull
                # request 175085). A checkpoint is loaded into this very tensor, in place.
                self._count = average.n_averaged = average.n_averaged.cpu()

    def _average(self, averages: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        done = int(self._count)
        decay = min(self.decay, (1 + done) / (10 + done))
        # The average was copied before the weights took the precision of the run, so their dtypes
        # can differ, and torch's update needs one.
        same = [weight.to(average) for weight, average in zip(weights, averages, strict=True)]
        get_ema_multi_avg_fn(decay)(averages, same, count)  # type: ignore[no-untyped-call]
