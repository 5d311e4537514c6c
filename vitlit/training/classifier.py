"""The ViT in training: loss, metrics, optimiser and schedule; and its data, for Lightning.

TrainingModule is what every training has in common; Classifier learns labels.

Batch of patches (B, N, C*P*P) or images (B, C, H, W) -> logits (B, num_classes) -> loss
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from vitlit.data.batch import Batch
from vitlit.data.datamodule import ImageData
from vitlit.data.split_record import RECORD_KEY
from vitlit.evaluation.scoring import Scoring
from vitlit.model.cast_weights import forward_with_cast_weights, saves_launches
from vitlit.seeding import seed_dropout
from vitlit.tasks.loss import distillation
from vitlit.tasks.task import EpochSums
from vitlit.training import compiling
from vitlit.training.compiling import Function
from vitlit.training.optim import (
    make_optimizer,
    parameter_groups,
    schedule_factor,
    spread_non_finite,
    warmup_steps,
)
from vitlit.training.teacher import Teacher, load_teacher
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
        if compiling.should_compile(self.hparams["compile"], self.vit, self.trainer):
            self._compiling = True
            mode = self.hparams["compile_mode"]
            parts = self.compiled_parts()
            self.compile_functions(compiling.compile_training(parts, self.trainer, mode))

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
            # the head's, if layer_decay makes layers differ; filled there, since a copy would wait
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
        groups = parameter_groups(
            self,
            weight_decay=hp["weight_decay"],
            decay=hp["decay"],
            lr=hp["lr"],
            layer_decay=hp["layer_decay"],
            depth=self.vit.config["depth"],
            muon_lr=(hp["muon_lr"] or hp["lr"]) if hp["optimizer"] == "muon" else None,
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


class Classifier(TrainingModule, Scoring):
    """Trains and scores a ViT; its arguments are those of :class:`TrainableViT`."""

    class_weights: Tensor
    train_sums: EpochSums

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._add_metrics()
        # Not persistent: the data decide the weights, and they are no part of the model.
        self.register_buffer("class_weights", torch.ones(self.num_classes), persistent=False)
        self.train_sums = self.task.epoch_sums(self.device)
        self._teacher: Teacher | None = None
        self._label_loss: Function = self.task.loss  # or what the compiler made of it
        self._full_batch: int | None = None  # images in a batch, if validation is compiled too

    def compile_functions(self, compiled: Callable[[Function], Function]) -> None:
        self._label_loss = compiled(self.task.loss)

    def forward(self, x: Tensor) -> Tensor:
        # `vit.forward` is the original; `vit(...)` is what nn.Module.compile replaced, and so does
        # the model whose weights are cast: the casts stay outside the graph, few as they are.
        x = x.to(self.dtype)  # the data are float32, the model may be half precision
        if not self.training:
            return self._answer(x)
        if saves_launches(x) and self._casts_together:
            return forward_with_cast_weights(self.vit, x, torch.get_autocast_dtype("cuda"))
        logits: Tensor = self.vit(x)
        return logits

    def _answer(self, x: Tensor) -> Tensor:
        """Logits outside training steps: compiled only within a compiled training on a GPU."""
        if self._full_batch is None:
            return self.vit.forward(x)
        return compiling.in_full_batches(self.vit, x, self._full_batch)

    @property
    def _casts_together(self) -> bool:
        """Whether all weights may be cast at once, before the model runs.

        Not with DDP, which sends gradients while others are computed: all casts come last. Nor if
        blocks run again in the backward pass, when the model has its own weights back.
        """
        again = self.hparams["grad_checkpointing"]
        return self._is_alone and not again

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self._learn_from(self.trainer.datamodule)  # type: ignore[attr-defined]
        # a run resumed in an epoch has no start of it
        self.train_sums = self.task.epoch_sums(self.device)

    def _learn_from(self, data: ImageData) -> None:
        """Take what the training images decide before the first step, and the teacher."""
        targets = data.splits["train"].labels
        self.task.check_training(targets, self.class_names)
        self.keep_learned(self.task.learned(targets))
        self._label_loss = self.task.loss
        if self.hparams["class_weights"] == "balanced":
            self.class_weights.copy_(self.task.loss_weights(targets, self.num_classes))
        if self._teacher is None:
            self.load_teacher(data)

    def load_teacher(self, data: ImageData) -> None:
        """Load the teacher, if the settings name one; refuses one that does not fit the data."""
        if source := self.hparams["teacher"]:
            self._teacher = load_teacher(source, data, self.class_names)

    def on_fit_start(self) -> None:
        if self._teacher is not None:
            self._teacher.to(self.device)
        super().on_fit_start()
        if self._compiling and self.device.type == "cuda":
            self._full_batch = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]

    def on_fit_end(self) -> None:
        self._full_batch = None

    def on_train_epoch_start(self) -> None:
        self.train_sums = self.task.epoch_sums(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Dropout draws from torch's global generator. Seeding it by the batch's address makes a
        # resumed run equal to an uninterrupted one.
        seed_dropout(batch.key, batch.x.device)
        logits = self(batch.x)
        weights = None if self.hparams["class_weights"] == "none" else self.class_weights
        smoothing = self.hparams["label_smoothing"]
        loss = self._label_loss(logits, batch.y, smoothing=smoothing, weights=weights)
        taught = None if self._teacher is None else self._teacher(batch.x)
        if taught is not None:
            loss = self._with_teacher(loss, logits, taught)
        self.train_sums.add(loss, logits, batch.y, taught)
        self.log_step(loss, batch_idx)
        return self.guarded(loss)

    def _with_teacher(self, loss: Tensor, logits: Tensor, taught: Tensor) -> Tensor:
        """The loss of the labels and that of the teacher's logits ``(B, K)``, by their shares."""
        share, temperature = self.hparams["teacher_weight"], self.hparams["teacher_temperature"]
        hard = self.hparams["teacher_hard"]
        other = distillation(logits, taught, temperature=temperature, hard=hard)
        return (1 - share) * loss + share * other

    def on_train_epoch_end(self) -> None:
        values = self.train_sums.means()
        if self.num_classes <= 5:  # of which it is always 1
            values.pop("acc5", None)
        if self._teacher is None:
            values.pop("teacher_agreement", None)
        named = {f"train/{name}": value for name, value in values.items()}
        self.log_dict(named, sync_dist=True)


class LightningImageData(ImageData, pl.LightningDataModule):
    """:class:`ImageData` for a Trainer, which takes Lightning's data modules alone."""

    __qualname__ = RECORD_KEY  # by which Lightning keeps the record of the splits in checkpoints

    def keep_settings(self, settings: dict[str, Any]) -> None:
        self.save_hyperparameters(settings, logger=False)
