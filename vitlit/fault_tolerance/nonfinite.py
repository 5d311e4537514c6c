"""Losses and gradients that are not numbers: the update is left out, and the training stops.

loss, gradients of a step -> one flag on the device -> no update, and an error that names the step
"""

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

MAX_LISTED_SAMPLES = 8  # sample numbers in a message
DELAY_STEPS = (
    2  # steps in which a flag has surely come from the device, for which nothing then waits
)


class Step(NamedTuple):
    """A step whose flag is not read yet."""

    flag: Tensor
    ready: Any  # event on the device, None where the flag is on the CPU
    number: int
    samples: list[Tensor]  # of its batches
    lr: float


class FiniteUpdates(Callback):
    """Lets no update through that is not finite, and stops, or skips it a number of times.

    On a GPU the optimiser itself leaves the update out, by the flag that gradient scalers use;
    the flag is read two steps later, so that no step waits for the device. A scaler leaves out the
    steps that it overflows in by itself, which is no fault; there the loss alone is looked at. Of
    several processes all see the same gradients, to which a loss that is not finite has spread.

    Args:
        skip: Updates that may be left out before the training stops.
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
        if isinstance(batch, Batch):
            self._samples.append(batch.sample)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        groups = trainer.optimizers[0].param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        losses, self._losses = self._losses, []
        samples, self._samples = self._samples, []
        if is_scaled:
            flag = non_finite([torch.stack(losses)])
            if trainer.world_size > 1:
                dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        else:
            flag = non_finite([*losses, *(p.grad for p in parameters)])
        if flag.is_cuda:
            if not is_scaled:
                trainer.optimizers[0].found_inf = flag  # type: ignore[attr-defined]
            self._waiting.append(
                Step(*_copy_to_host(flag), trainer.global_step, samples, groups[-1]["lr"])
            )
            self._read(leave=DELAY_STEPS)
            return
        self._waiting.append(Step(flag, None, trainer.global_step, samples, groups[-1]["lr"]))
        if self._read():
            for parameter in parameters:
                parameter.grad = None  # which every optimiser takes for nothing to do

    def _read(self, leave: int = 0) -> bool:
        """Whether a flag was raised, of all steps but the last ``leave``."""
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
            f"{step.lr:.3g}, training images {shown}{more})"
        )
        self.skipped += 1
        if self.skipped > self.skip:
            raise NonFiniteError(
                f"{what}; its update was left out, and no checkpoint holds it; lower lr, give "
                f"gradient_clip_val, or let skip leave out a few",
                argument=("lr", "gradient_clip_val", "skip"),
            )
        rank_zero_warn(f"{what}; left out update {self.skipped} of at most {self.skip}")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._read()
        checkpoint["skipped_updates"] = self.skipped

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.skipped = checkpoint.get("skipped_updates", 0)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read()


def _copy_to_host(flag: Tensor) -> tuple[Tensor, Any]:
    """The flag on its way to the CPU, and the event that tells when it is there."""
    copied = torch.empty((), pin_memory=True).copy_(flag, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return copied, event
