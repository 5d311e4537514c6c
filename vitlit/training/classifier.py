"""The ViT that learns labels: losses and metrics in training; and its data, for Lightning.

Batch of patches (B, N, C*P*P) or images (B, C, H, W) -> logits (B, num_classes) -> loss
"""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from vitlit.data.batch import Batch
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError, first_few
from vitlit.evaluation.scoring import Scoring
from vitlit.messages import counted
from vitlit.model.cast_weights import forward_with_cast_weights, saves_launches
from vitlit.seeding import seed_dropout
from vitlit.tasks.loss import distillation
from vitlit.tasks.task import EpochSums
from vitlit.training import compiling
from vitlit.training.compiling import Function
from vitlit.training.teacher import Teacher, load_teacher
from vitlit.training.training_module import TrainingModule


class Classifier(TrainingModule, Scoring):
    """Trains and scores a ViT; its arguments are those of TrainableViT."""

    class_weights: Tensor
    train_sums: EpochSums

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._add_metrics(self.task)
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
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, PlainImageData):
            raise InputError(
                "Classifier takes its batches from vitlit.ImageData; give the Trainer one, or for "
                "other loaders put vitlit.ViT into a LightningModule of your own"
            )
        if stage == "fit":
            if self.trainer.overfit_batches:  # type: ignore[attr-defined]
                raise InputError(
                    "overfit_batches would replace the order of the data; give limit_train_batches"
                )
            self._check_classes(data)
            self._learn_from(data)
        elif stage != "predict":
            self._add_metrics(self.task)  # a training before has left those without its thresholds
        # a run resumed in an epoch has no start of it
        self.train_sums = self.task.epoch_sums(self.device)

    def _check_classes(self, data: PlainImageData) -> None:
        """Take the names of the data's classes if it has none; refuse data of other classes."""
        if self.num_classes != data.num_classes:
            raise InputError(
                f"the model has {counted(self.num_classes, 'class')}, and the data set has "
                f"{data.num_classes} ({first_few(data.class_names)}); make a model of as many"
            )
        if self.hparams["class_names"] is None:
            self.class_names = self.hparams["class_names"] = data.class_names
        if self.class_names != data.class_names:  # in another order too: labels are numbers
            raise InputError(
                f"class_names {first_few(self.class_names)} are not those of the data set, "
                f"{first_few(data.class_names)}; leave them out",
                argument="class_names",
            )

    def _learn_from(self, data: PlainImageData) -> None:
        """Take what the training images decide before the first step, and the teacher."""
        targets = data.splits["train"].labels
        self.task.check_training(targets, self.class_names)
        if learned := self.task.learned(targets):
            self.keep_learned(learned)
            self.vit.load_state_dict(self.task.in_training(self.vit.state_dict()))
        self._label_loss = self.task.loss
        self._add_metrics(self.task.unfitted())
        if self.hparams["class_weights"] == "balanced":
            self.class_weights.copy_(self.task.loss_weights(targets, self.num_classes))
        if self._teacher is None:
            self.load_teacher(data)

    def load_teacher(self, data: PlainImageData) -> None:
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
        reduce = self.trainer.strategy.reduce
        values = self.train_sums.means(lambda own: reduce(own.clone(), reduce_op="sum"))
        if self.num_classes <= 5:  # of which it is always 1
            values.pop("acc5", None)
        if self._teacher is None:
            values.pop("teacher_agreement", None)
        named = {f"train/{name}": value for name, value in values.items()}
        self.log_dict(named, sync_dist=True)


class ImageData(PlainImageData, pl.LightningDataModule):
    """The same for a Trainer, which takes Lightning's data modules alone.

    Lightning keeps the record of the splits in checkpoints by the name of this class.
    """

    def keep_settings(self, settings: dict[str, Any]) -> None:
        self.save_hyperparameters(settings, logger=False)
