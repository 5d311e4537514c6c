"""What every training has in common, whatever the ViT learns: a Lightning module without a loss.

settings -> compiling, checkpoints, optimiser, schedule and clipping
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from vitlit.data.batch import Batch
from vitlit.training.compiling import Function, compile_training, should_compile
from vitlit.training.optim.groups import parameter_groups
from vitlit.training.optim.optimizers import make_optimizer, tell_unused
from vitlit.training.optim.schedule import schedule_factor, warmup_steps
from vitlit.training.trainable import TrainableViT
from vitlit.weights.checkpoint import BASE_KEY, STATES, merge_states
from vitlit.weights.pretrained import complete_states


class Sums(Protocol):
    """What an epoch of training adds up on the device."""

    def sums(self) -> Tensor:
        """The sums so far, float32 ``(k,)``."""

    def restore(self, sums: Tensor) -> None:
        """Continue from the sums of an interrupted epoch."""


class TrainingModule(TrainableViT, pl.LightningModule):
    """A ViT in training, whatever it learns: compiling, checkpoints, optimiser, clipping."""

    train_sums: Sums  # of the epoch so far, which a resumed run continues

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._compiling, self._is_alone = False, True

    def keep_settings(self, settings: dict[str, Any]) -> None:
        self.save_hyperparameters(settings)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the hook that it is in, a word or None, forty times a step. nn.Module
        # would first look for a parameter, buffer or module of that name: 0.1 ms a step.
        if name in self.__dict__ and (value is None or type(value) is str):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def setup(self, stage: str) -> None:
        self._is_alone = self.trainer.world_size == 1

    def on_fit_start(self) -> None:  # after setup the device and the number of steps are known
        if should_compile(self.hparams["compile"], self.vit, self.trainer):
            self._compiling = True
            mode = self.hparams["compile_mode"]
            parts = self.compiled_parts()
            self.compile_functions(compile_training(parts, self.trainer, mode))

    def compile_functions(self, compiled: Callable[[Function], Function]) -> None:
        """Replace functions that a training step calls by what ``compiled`` makes of them."""

    def compiled_parts(self) -> list[nn.Module]:
        """The modules that a training step calls, largest first, for compiling in place."""
        return [self.vit]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self._compiling:
            self._start = time.monotonic()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self._compiling:
            self._compiling, spent = False, time.monotonic() - self._start
            rank_zero_info(f"compiled the model: the first step took {spent:.0f} s")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the weights that their file holds; callbacks have added theirs by now."""
        if self.base is None:
            return
        checkpoint[BASE_KEY] = self.base
        left_out = {f"vit.{name}" for name in self.base["unchanged"]}
        for part in STATES:
            if part in checkpoint:
                state = checkpoint[part]
                checkpoint[part] = {name: state[name] for name in state if name not in left_out}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        complete_states(checkpoint, None)  # of those not read by DurableIO, which knows their path
        self.base = checkpoint.get(BASE_KEY)
        if not self.hparams["lora_rank"]:
            merge_states(checkpoint)

    def guarded(self, loss: Tensor) -> Tensor:
        """The loss for the backward pass; of several processes each sees if another's is bad."""
        return loss if self._is_alone else spread_non_finite(loss)

    def log_step(self, loss: Tensor, batch_idx: int) -> None:
        """Log the learning rate and the loss, in the steps in which loggers write."""
        if self._is_logging_step(batch_idx):
            # the last layer's, if layer_decay is not 1; filled there, since a copy would wait
            rate = self.trainer.optimizers[0].param_groups[-1]["lr"]
            self.log("lr", loss.new_full((), rate, dtype=torch.float32))
            self.log("train/loss", loss, prog_bar=True)

    def _is_logging_step(self, batch_idx: int) -> bool:
        """Whether loggers write in this step, or the bar needs a first value; ``log`` is slow."""
        # + 1, as Lightning counts: this step is counted once its update is done.
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return batch_idx == 0 or (every > 0 and (self.global_step + 1) % every == 0)

    def configure_optimizers(self) -> Any:
        hp = self.hparams
        tell_unused(hp)
        groups = parameter_groups(
            self,
            weight_decay=hp["weight_decay"],
            decay=hp["decay"],
            lr=hp["lr"],
            layer_decay=hp["layer_decay"],
            depth=self.vit.config["depth"],
            muon_lr=(hp["muon_lr"] or hp["lr"]) if hp["optimizer"] == "muon" else None,
            head_lr=hp["head_lr"],
        )
        fused = self._has_fused_step or None  # None lets torch choose; False would forbid foreach
        kind, momentum = hp["optimizer"], hp["momentum"]
        optimizer = make_optimizer(kind, groups, lr=hp["lr"], momentum=momentum, fused=fused)
        # Optimiser steps of the whole run: accumulation, devices and max_steps are counted in.
        total = self.trainer.estimated_stepping_batches
        factor = schedule_factor(
            hp["schedule"],
            total=total,
            warmup=warmup_steps(hp, total, self.trainer),
            floor=hp["min_lr"] / hp["lr"],
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    @property
    def _has_fused_step(self) -> bool:
        """Whether one kernel may update all weights.

        Not with 16-mixed: a fused step unscales the gradients itself, after they were clipped.
        """
        return self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does.

        Lightning's own method refuses fused optimisers in every mixed precision; only with a scaler
        would they unscale after clipping, and with one there is none (:attr:`_has_fused_step`).
        """
        if not gradient_clip_val:
            return
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        else:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)


def spread_non_finite(loss: Tensor) -> Tensor:
    """The same loss; if it is not finite, its gradients are not finite either.

    An infinite loss can have finite gradients. DDP averages gradients, not losses, so the other
    processes would then train on without knowing.
    """
    return loss * (loss.detach() * 0 + 1)  # inf * 0 and nan * 0 are nan; otherwise the factor is 1
