"""A ViT and how it is to be trained: the settings, checked, without the training itself.

settings -> ViT, class names; published weights -> the ViT's weights
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vitlit.errors import InputError, check_at_least, check_below_one, check_choice
from vitlit.model.low_rank import add_adapters
from vitlit.model.vit import ViT
from vitlit.tasks.known import DEFAULT_TASK, make_task
from vitlit.tasks.multi_label import check_thresholds
from vitlit.tasks.task import LossName, Task, TaskName
from vitlit.training.optim.groups import freeze
from vitlit.training.optim.optimizers import MOMENTUM, OptimizerName, check_muon_lr, check_rates
from vitlit.training.optim.schedule import check_warmup
from vitlit.weights.adapt import adapt_weights
from vitlit.weights.checkpoint import base_record
from vitlit.weights.notes import tell_notes
from vitlit.weights.pretrained import Weights, load_weights

CompileMode = Literal["default", "max-autotune"]
DecayName = Literal["matrices", "all"]
ScheduleName = Literal["cosine", "constant"]
ClassWeightsName = Literal["none", "balanced"]


class TrainableViT(nn.Module):
    """A ViT with the settings of its training, which are checked, and the names of its classes.

    Lightning, whose import takes seconds, is not needed here: commands that only use a model take
    this, and :class:`~vitlit.training.classifier.Classifier` trains it.

    Args:
        lr: Maximum learning rate.
        optimizer: adamw (decoupled weight decay), adam (L2 penalty in the gradient), sgd, or muon:
            Muon for the matrices of the blocks and the filters of a convolutional stem, and AdamW
            for everything else.
        muon_lr: Maximum learning rate of Muon; by default lr, since Muon's updates are scaled to
            the size of AdamW's. lr then applies to everything else; both follow one schedule.
        head_lr: Maximum learning rate of the head, which is new where published weights lack your
            classes; by default lr.
        momentum: Momentum of sgd; Muon's is 0.95.
        weight_decay: Strength of weight decay.
        decay: What weight decay applies to: matrices excludes biases, norms, positions and tokens;
            all excludes nothing.
        schedule: cosine falls to min_lr at the end of training; constant stays at lr.
        warmup_epochs: Epochs of linear warmup, counted in optimiser steps.
        warmup_steps: Warmup in optimiser steps, instead of warmup_epochs.
        warmup_fraction: Warmup as a share of all optimiser steps, instead of warmup_epochs.
        min_lr: Learning rate at the end of a cosine schedule.
        label_smoothing: Share of the target spread over all classes, in the training loss; of
            several classes for each image, the share by which each target moves towards 0.5.
        class_weights: balanced multiplies the training loss of a class with n_k of the n images
            by n / (K n_k), so that rare classes count as much as frequent ones. Of several classes
            for each image, it multiplies the loss of images with a class by n / n_k - 1.
        layer_decay: Learning rate of each layer relative to the layer above it, such as 0.75; 1
            trains all layers at the same rate.
        freeze_blocks: Number of first blocks to freeze, together with the embedding before them;
            -1 trains only the head.
        lora_rank: Train only the head and adapters of this rank, such as 8, in the attention of
            each block; everything else keeps the weights of pretrained. 0 trains all weights.
            freeze_blocks leaves the first blocks without adapters.
        lora_alpha: The adapters' updates are scaled by lora_alpha / lora_rank; by default
            lora_alpha is lora_rank.
        pretrained: Weights to start from: a file, a model's or a run's folder, or a name on the
            Hugging Face hub such as timm/vit_base_patch16_224.augreg_in21k. From Python, use
            vitlit.load.
        teacher: A model with the same classes, whose predictions for the same augmented images are
            learned too: anything that pretrained accepts, a run's folder, or a .pt2 file of
            torch.export, of any architecture. It is frozen and not stored in checkpoints.
        teacher_weight: Weight of the teacher in the loss; the labels have the rest.
        teacher_temperature: Temperature of both predictions; above 1, the teacher's less likely
            classes count more.
        teacher_hard: Learn the teacher's most likely class instead of its probabilities.
        grad_checkpointing: Keep only the input of each block for the backward pass, which computes
            the rest again: the same gradients with less memory, in more time.
        compile: Compile the model, and on a GPU the augmentation, for training with torch.compile;
            the first step then takes minutes. By default only for long trainings on a GPU.
        compile_mode: max-autotune compiles longer for faster kernels, which differ between runs.
        loss: Of regression, on targets of standard deviation 1: mse (squared error, the default),
            l1 (absolute error) or huber (squared up to 1, absolute beyond).
        class_names: Names in the order of the labels, from the data.
        task: The kind of label, from the data.
        target_mean: Mean of the training images' targets, of regression; a training sets it.
        target_std: Their standard deviation; a training sets it.
        thresholds: For multi_label: the probability above which an image has a class, for each
            class; fit finds those of the highest F1 on the validation images.
    """

    hparams: Any  # the arguments, those of ViT among them
    task: Task
    base: dict[str, Any] | None = None  # what checkpoints keep in place of frozen weights

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        optimizer: OptimizerName = "adamw",
        muon_lr: float | None = None,
        head_lr: float | None = None,
        momentum: float = MOMENTUM,
        weight_decay: float = 0.05,
        decay: DecayName = "matrices",
        schedule: ScheduleName = "cosine",
        warmup_epochs: float = 0.0,
        warmup_steps: int = 0,
        warmup_fraction: float = 0.0,
        min_lr: float = 0.0,
        label_smoothing: float = 0.0,
        class_weights: ClassWeightsName = "none",
        layer_decay: float = 1.0,
        freeze_blocks: int = 0,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        pretrained: str | None = None,
        teacher: str | None = None,
        teacher_weight: float = 0.5,
        teacher_temperature: float = 1.0,
        teacher_hard: bool = False,
        grad_checkpointing: bool = False,
        compile: bool | None = None,
        compile_mode: CompileMode = "default",
        loss: LossName | None = None,
        class_names: list[str] | None = None,
        task: TaskName = DEFAULT_TASK,
        target_mean: float | None = None,
        target_std: float | None = None,
        thresholds: list[float] | None = None,
        **vit: Any,
    ) -> None:
        settings = {**locals(), **vit}
        super().__init__()
        # Python passes any text: an unknown one would train with another choice in silence.
        check_choice(get_args(OptimizerName), optimizer=optimizer)
        check_choice(get_args(DecayName), decay=decay)
        check_choice(get_args(ScheduleName), schedule=schedule)
        check_choice(get_args(ClassWeightsName), class_weights=class_weights)
        check_choice(get_args(CompileMode), compile_mode=compile_mode)
        check_rates(lr, min_lr, head_lr)
        if muon_lr is not None:
            check_muon_lr(muon_lr, optimizer)
        check_teaching(teacher, teacher_weight, teacher_temperature, hard=teacher_hard)
        check_at_least(0, weight_decay=weight_decay)
        check_below_one(label_smoothing=label_smoothing, momentum=momentum)
        check_warmup(warmup_epochs, warmup_steps, warmup_fraction)
        # with those of ViT: a checkpoint alone rebuilds the model
        left_out = ("vit", "self", "__class__")
        self.keep_settings({key: settings[key] for key in settings if key not in left_out})
        self.task = make_task(self.hparams)
        self.vit = ViT(**vit)  # keep literal: the command line reads ViT's arguments here
        self.vit.blocks.set_grad_checkpointing(grad_checkpointing)
        self.class_names = class_names or [str(i) for i in range(self.num_classes)]
        if len(self.class_names) != self.num_classes:
            raise InputError(
                f"{len(self.class_names)} class names for {self.num_classes} classes; "
                f"they must agree",
                argument="class_names",
            )
        if thresholds is not None:
            check_thresholds(thresholds, task, self.num_classes)
        if teacher is not None:
            self.task.require("teacher", argument="teacher")
        depth = self.vit.config["depth"]
        check_layers(layer_decay, freeze_blocks, depth)
        if optimizer == "muon" and freeze_blocks in (-1, depth):
            raise InputError(
                f"optimizer muon updates the matrices of the blocks, and freeze_blocks "
                f"{freeze_blocks} freezes them all; give optimizer adamw",
                argument=("optimizer", "freeze_blocks"),
            )
        freeze(self.vit, freeze_blocks, depth)
        check_lora(lora_rank, lora_alpha, freeze_blocks, depth)
        if lora_rank:
            add_adapters(self.vit, lora_rank, lora_alpha or lora_rank, first=freeze_blocks)

    def keep_learned(self, learned: dict[str, Any]) -> None:
        """Keep settings that the task learned from the data, for checkpoints and for answers."""
        if learned:
            self.hparams.update(learned)
            self.task = make_task(self.hparams)

    def keep_settings(self, settings: dict[str, Any]) -> None:
        """Keep the arguments as ``hparams``, which checkpoints hold."""
        self.hparams = settings

    @property
    def num_classes(self) -> int:
        return self.vit.num_classes

    @property
    def saved_bytes(self) -> int:
        """Bytes of the weights in a checkpoint; with adapters, others are left to their file."""
        if self.hparams["lora_rank"]:
            return sum(one.nbytes for one in self.vit.parameters() if one.requires_grad)
        return sum(tensor.nbytes for tensor in self.state_dict().values())

    def load_pretrained(self, weights: Weights | None = None) -> None:
        """Load weights, adapted to this model; by default those that ``pretrained`` names.

        Logs what was assumed, kept, resized and dropped. Raises InputError if they cannot fit.
        """
        weights = weights or load_weights(self.hparams["pretrained"])
        state, notes = adapt_weights(weights, self.vit, self.class_names)
        # with the adapters' own values, which no file of weights has
        if self.hparams["lora_rank"]:
            self._leave_to_file(weights, state)
        self.vit.load_state_dict({**self.vit.state_dict(), **state})
        tell_notes([*weights.notes, *notes])

    def _leave_to_file(self, weights: Weights, state: dict[str, Tensor]) -> None:
        """Note which frozen weights are as in their file: checkpoints name it in their place.

        state: the weights as adapted to this model; what was resized or is new stays in them.
        """
        given = weights.state
        frozen = [name for name, one in self.vit.named_parameters() if not one.requires_grad]
        same = [name for name in frozen if name in given and torch.equal(given[name], state[name])]
        if weights.file is not None:
            source = self.hparams["pretrained"] or str(weights.file)
            about = (weights.arguments, weights.rotary)
            self.base = base_record(weights.file, *about, source, same)


def check_layers(layer_decay: float, freeze_blocks: int, depth: int) -> None:
    """Refuse a decay that is no share, and more frozen blocks than there are."""
    if not 0 < layer_decay <= 1:
        raise InputError(
            f"layer_decay {layer_decay} must be above 0 and at most 1", argument="layer_decay"
        )
    if not -1 <= freeze_blocks <= depth:
        raise InputError(
            f"freeze_blocks {freeze_blocks} is none of -1 to {depth}, and the model has {depth} "
            f"blocks; give one of these",
            argument="freeze_blocks",
        )


def check_lora(rank: int, alpha: float | None, freeze_blocks: int, depth: int) -> None:
    """Refuse settings of low-rank adapters that are out of range, or that would have no effect."""
    check_at_least(0, lora_rank=rank)
    if alpha is not None and not rank:
        raise InputError(
            f"lora_alpha {alpha} has no effect without lora_rank; give a rank such as 8, or leave "
            f"it out",
            argument=("lora_alpha", "lora_rank"),
        )
    if alpha is not None and not 0 < alpha < math.inf:
        raise InputError(
            f"lora_alpha {alpha} is not positive; give one above 0, such as the rank, {rank}",
            argument="lora_alpha",
        )
    if rank and freeze_blocks in (-1, depth):
        raise InputError(
            f"freeze_blocks {freeze_blocks} freezes all blocks, so lora_rank {rank} has none to "
            f"adapt; leave out one of them",
            argument=("freeze_blocks", "lora_rank"),
        )


def check_teaching(teacher: str | None, weight: float, temperature: float, *, hard: bool) -> None:
    """Refuse settings of a teacher that are out of range, or that would have no effect."""
    if teacher is not None and not teacher.strip():
        raise InputError(
            f"teacher {teacher!r} names no weights; give a file, a folder or a name, or leave it "
            f"out",
            argument="teacher",
        )
    if not 0 < weight <= 1:
        raise InputError(
            f"teacher_weight {weight} is not above 0 and at most 1; 0.5 is usual",
            argument="teacher_weight",
        )
    if not 0 < temperature < math.inf:
        raise InputError(
            f"teacher_temperature {temperature} is not positive; give one above 0",
            argument="teacher_temperature",
        )
    usual = {"teacher_weight": weight == 0.5, "teacher_temperature": temperature == 1.0}
    usual["teacher_hard"] = not hard
    if teacher is None and (odd := [name for name, is_usual in usual.items() if not is_usual]):
        raise InputError(
            f"{odd[0]} has no effect without teacher; give a teacher, or leave it out",
            argument=(odd[0], "teacher"),
        )
    if hard and temperature != 1.0:
        raise InputError(
            f"teacher_temperature {temperature} changes nothing with teacher_hard, which learns "
            f"one class; leave out one of them",
            argument=("teacher_temperature", "teacher_hard"),
        )
