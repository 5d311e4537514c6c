"""An exponential moving average of the weights.

weights after each optimiser step -> their average, which is validated and saved

Lightning's and torch's averages count their steps in a tensor on the device, and reading it makes
each step wait (PyTorch pull request 175085). Here the count is a plain number.
"""

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage(Callback):
    """Exponential moving average of the weights; validation and checkpoints use it.

    A checkpoint holds the average as ``state_dict``, the weights as ``current_model_state`` and the
    count as ``averaging_state``, as those of Lightning's WeightAveraging do.

    decay: share of the average that each step keeps, in [0, 1). After n steps the share is
    min(decay, (1 + n) / (10 + n)), so that short runs forget the weights they started from.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._average: list[Tensor] = []  # of each of _values, in their order
        self._groups: list[tuple[list[Tensor], list[Tensor]]] = []  # averages and weights
        self._aside: list[Tensor] | None = None  # the weights, while the model holds the average
        self._count, self._latest_step = 0, 0  # optimiser steps in the average; the last of them

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            # A copy from before the weights take the precision of the run: an average of bfloat16
            # weights that is itself in bfloat16 would round small changes away.
            device = pl_module.device  # to which Lightning will move the weights
            values = _values(pl_module).values()
            self._average = [value.to(device, copy=True) for value in values]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        groups: dict[tuple[torch.dtype, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        for average, weight in zip(self._average, _values(pl_module).values(), strict=True):
            averages, weights = groups.setdefault((average.dtype, weight.dtype), ([], []))
            averages.append(average)
            weights.append(weight)
        self._groups = list(groups.values())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step > self._latest_step:  # not while gradients are accumulated
            self._latest_step = trainer.global_step
            self._update()

    def _update(self) -> None:
        decay = min(self.decay, (1 + self._count) / (10 + self._count))
        for averages, weights in self._groups:
            if averages[0].dtype != weights[0].dtype:  # torch's update takes one dtype only
                weights = [weight.to(averages[0].dtype) for weight in weights]
            if self._count:
                get_ema_multi_avg_fn(decay)(averages, weights, None)  # type: ignore[no-untyped-call]
            else:  # the first step: the weights from before the training are forgotten
                _copy(weights, averages)
        self._count += 1

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._average and self._aside is None:
            self._aside = [weight.clone() for weight in _values(pl_module).values()]
            _copy(self._average, _values(pl_module).values())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._aside is not None:
            _copy(self._aside, _values(pl_module).values())
            self._aside = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _copy(self._average, _values(pl_module).values())

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self._latest_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._latest_step = state_dict["latest_update_step"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        names = _values(pl_module)
        current = checkpoint["state_dict"]
        if self._aside is not None:  # within a validation
            current = {**current, **dict(zip(names, self._aside, strict=True))}
        # All other buffers are constants, or count: there is nothing to average.
        averages = dict(zip(names, self._average, strict=True))
        checkpoint["state_dict"] = {
            name: averages.get(name, value) for name, value in current.items()
        }
        checkpoint["current_model_state"] = current
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self._count)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning has loaded the average into the model already."""
        _copy([checkpoint["state_dict"][name] for name in _values(pl_module)], self._average)
        if "current_model_state" not in checkpoint or "averaging_state" not in checkpoint:
            rank_zero_warn("the checkpoint has no moving average; it starts from its weights")
            return
        self._count = int(checkpoint["averaging_state"]["n_averaged"])
        pl_module.load_state_dict(checkpoint["current_model_state"])


def _values(module: pl.LightningModule) -> dict[str, Tensor]:
    """What is averaged, without gradients: writing to these changes the module.

    The parameters, and the means and variances of batch norms.
    """
    found = {name: parameter.detach() for name, parameter in module.named_parameters()}
    buffers = dict(module.named_buffers())
    return found | {name: one for name, one in buffers.items() if ".running_" in name}


def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)
