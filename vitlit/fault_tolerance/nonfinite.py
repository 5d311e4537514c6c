"""Infinite or NaN losses and gradients: the update is skipped, and the training stops.

loss, gradients of a step -> one flag on the device -> no update, and an error that names the step
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.errors import NonFiniteError, check_at_least
from vitlit.fault_tolerance.lightning_internals import non_finite

MAX_LISTED_SAMPLES = 8  # numbers of images in a message
# Steps between setting a flag and reading it. By then it has come from the device; nothing waits.
DELAY_STEPS = 2


class Rate(NamedTuple):
    """The highest learning rate of a step, and the setting that it follows from."""

    name: str
    value: float


class Step(NamedTuple):
    """An optimiser step whose flag has not been read yet."""

    flag: Tensor
    ready: Any  # event on the device; None if the flag was computed on the CPU
    number: int  # optimiser steps before it
    samples: list[Tensor]  # numbers of its images, one tensor for each batch
    rate: Rate


class FiniteUpdates(Callback):
    """Skips every update that is not finite; more than ``skip`` of them stop the training.

    On a GPU the optimiser itself skips the update, by the flag that gradient scalers use; the flag
    is read two steps later, so that no step waits for the device. With 16-mixed the scaler skips
    steps in which scaled gradients overflow, which is normal; only the loss is checked then. All
    processes see the same gradients, to which the loss of any of them has spread
    (:func:`vitlit.training.training_module.spread_non_finite`).

    Args:
        skip: Updates that may be skipped before the training stops.

    Raises NonFiniteError, which names the step, its images and the highest learning rate.
    """

    def __init__(self, skip: int = 0) -> None:
        check_at_least(0, skip=skip)
        self.skip, self.skipped = skip, 0
        self._samples: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._waiting: list[Step] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if isinstance(batch, Batch):  # a user's own data module has others; they are not named
            self._samples.append(batch.sample)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        # This hook runs after the last backward pass of the step, and before clipping.
        groups = trainer.optimizers[0].param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        losses, self._losses = self._losses, []
        samples, self._samples = self._samples, []
        rate = highest_rate(groups, pl_module.hparams)
        if is_scaled:
            flag = non_finite([torch.stack(losses)])
            # spread_non_finite is no help here: the scaler hides gradients that are not finite.
            if trainer.world_size > 1:
                dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        else:
            flag = non_finite([*losses, *(p.grad for p in parameters)])
        if flag.is_cuda:
            # torch's fused optimisers read found_inf in step(), after this hook; if it is 1 they
            # change neither weights, moments nor step counts. A scaler sets its own.
            if not is_scaled:
                trainer.optimizers[0].found_inf = flag  # type: ignore[attr-defined]
            self._waiting.append(Step(*_copy_to_host(flag), trainer.global_step, samples, rate))
            self._read(leave=DELAY_STEPS)
            return
        self._waiting.append(Step(flag, None, trainer.global_step, samples, rate))
        if self._read():
            for parameter in parameters:
                parameter.grad = None  # every optimiser skips parameters without a gradient

    def _read(self, leave: int = 0) -> bool:
        """Read the flags of all steps but the last ``leave``; returns whether one was raised."""
        found = False
        while len(self._waiting) > leave:
            step = self._waiting.pop(0)
            if step.ready is not None:
                step.ready.synchronize()
            if step.flag.item():
                found = True
                self._count(step)
        return found

    def _count(self, step: Step) -> None:
        samples = torch.cat(step.samples).tolist() if step.samples else []
        shown = ", ".join(map(str, samples[:MAX_LISTED_SAMPLES]))
        more = ", …" if len(samples) > MAX_LISTED_SAMPLES else ""
        what = (
            f"the loss or a gradient of step {step.number + 1} is not finite (learning rate "
            f"{step.rate.value:.3g}, training images {shown}{more})"
        )
        self.skipped += 1
        if self.skipped > self.skip:
            raise NonFiniteError(
                f"{what}; this update was not made, and no checkpoint contains it; lower "
                f"{step.rate.name}, give gradient_clip_val, or allow a few with skip",
                argument=(step.rate.name, "gradient_clip_val", "skip"),
            )
        rank_zero_warn(f"{what}; skipped update {self.skipped} of at most {self.skip}")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._read()  # so that no checkpoint is written while a step may turn out not finite
        checkpoint["skipped_updates"] = self.skipped

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.skipped = checkpoint.get("skipped_updates", 0)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read()


def highest_rate(groups: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Rate:
    """The rate of the group that learns fastest.

    groups: of the optimiser; settings: of the model, by which their rates are called.
    """
    top = max(groups, key=lambda group: float(group["lr"]))
    peak = top.get("initial_lr", top["lr"])  # before the schedule
    names = (name for name in ("lr", "head_lr", "muon_lr") if settings.get(name) == peak)
    return Rate(next(names, "lr"), float(top["lr"]))


def _copy_to_host(flag: Tensor) -> tuple[Tensor, Any]:
    """Start copying the flag to the CPU; returns the copy, and the event that says it is there."""
    # Pinned memory: copies to pageable memory wait for the device.
    copied = torch.empty((), pin_memory=True).copy_(flag, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return copied, event
