"""Whether a training is compiled, and what: the model, and on a GPU its augmentation and loss.

option, model, device, steps of the training -> yes or no, said once
"""

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from vitlit.model.cost import cost_by_part
from vitlit.model.vit import ViT
from vitlit.training.trainable import CompileMode

Function = Callable[..., torch.Tensor]
COMPILER = "inductor"  # a name of its own so that tests can compile without a C++ compiler

# torch's "default" and "max-autotune-no-cudagraphs": CUDA graphs would need batches at fixed
# addresses; loaders and mixing make new ones.
MODES: dict[CompileMode, dict[str, Any]] = {
    "default": {},
    "max-autotune": {"max_autotune": True, "coordinate_descent_tuning": True},
}
# combo_kernels joins small kernels that do not depend on each other, such as those of the gradients
# of biases: 5 launches fewer for each block. Small models wait for launches, large batches do not.
# mix_order_reduction would compute the gradients of a norm's weights in the kernel of the gradient
# of its input, and finish them by two sums. Without it they have kernels of their own, which
# combo_kernels joins: 6 launches fewer for each block. Those kernels read the incoming gradients
# again; by arithmetic, this takes about as long as the two sums.
GPU_OPTIONS = {"combo_kernels": True, "triton.mix_order_reduction": False}
NOT_A_LEAF = r"The \.grad attribute of a Tensor that is not a leaf"  # torch's warning
# Estimates, by arithmetic, until benchmarks/gpu.py has run on a GPU: an eager step launches about
# 60 kernels for each block, 8 microseconds each, and big ones run at 100 TFLOP/s.
SECONDS_A_BLOCK, FLOPS_A_SECOND = 60 * 8e-6, 1e14
WORTHWHILE_SECONDS = 300.0  # compiling takes one or two minutes, and saves about half of each step


def eager_seconds(vit: ViT, images: int) -> float:
    """A guess of what a training step takes on a GPU without compiling; images: of a batch."""
    forward = sum(cost.flops for cost in cost_by_part(vit).values())
    arithmetic = 3 * forward * images / FLOPS_A_SECOND  # backward takes twice as much as forward
    return max(vit.config["depth"] * SECONDS_A_BLOCK, arithmetic)


def is_worthwhile(device: str, seconds: float) -> bool:
    """Whether a training that would take so long without it is compiled if nobody decides.

    device: its type. Only on GPUs: on a CPU, minutes of compiling gain a tenth.
    """
    return device == "cuda" and seconds >= WORTHWHILE_SECONDS


def missing_tool() -> str:
    """What compiling for a GPU needs and this machine lacks; empty if nothing."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton"
    compilers = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return "" if any(name and shutil.which(name) for name in compilers) else "a C compiler"


def should_compile(asked: bool | None, vit: ViT, trainer: pl.Trainer) -> bool:
    """Whether to compile: as asked, or else by :func:`is_worthwhile`; says what it chose itself."""
    if asked is not None:
        return asked
    device = trainer.strategy.root_device.type
    if device != "cuda":
        return False
    seconds = training_seconds(vit, trainer)
    if not is_worthwhile(device, seconds):
        return False
    if tool := missing_tool():
        rank_zero_info(f"the model is not compiled, since there is no {tool}; it would be faster")
        return False
    rank_zero_info(
        "the model and its augmentation are compiled, since this training is long; compile false "
        "prevents it"
    )
    return True


def training_seconds(vit: ViT, trainer: pl.Trainer) -> float:
    """A guess of what is left of the training without compiling; infinite if it has no end."""
    steps = trainer.estimated_stepping_batches - trainer.global_step
    batches = steps * trainer.accumulate_grad_batches
    size = getattr(trainer.datamodule, "batch_size", 1)  # type: ignore[attr-defined]
    left = [batches * eager_seconds(vit, size)]
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, Timer) and (limit := timer.time_remaining()) is not None:
            left.append(limit)
    return min(left)


def in_full_batches(model: nn.Module, x: torch.Tensor, size: int) -> torch.Tensor:
    """``model(x)`` of the last, smaller batch too as one of ``size`` images.

    For a compiled model, which would compile again for each number of images.
    """
    missing = max(size - len(x), 0)
    if missing:
        with torch.inference_mode(x.is_inference()):  # the other kind would be compiled anew
            x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    answers: torch.Tensor = model(x)
    return answers[: len(x) - missing]


def compile_training(
    parts: Sequence[nn.Module], trainer: pl.Trainer, mode: CompileMode
) -> Callable[[Function], Function]:
    """Compile parts of the model in place, and on a GPU the augmentation of the data.

    Returns what compiles a function too, and on a CPU leaves it as it is. Of the 14 launches of the
    loss, there and back, 3 are left.
    """
    # of the compiler, which looks at all its inputs: weights that were cast are no leaves
    warnings.filterwarnings("ignore", message=NOT_A_LEAF)
    is_on_gpu = trainer.strategy.root_device.type == "cuda"
    choices = {**MODES[mode], **(GPU_OPTIONS if is_on_gpu else {})}
    options: dict[str, Any] = {"backend": COMPILER, "options": choices}
    # In place: torch.compile(part) would wrap it, and put _orig_mod into every key.
    for part in parts:
        part.compile(**options)
    data = trainer.datamodule  # type: ignore[attr-defined]
    # on a CPU the augmentation groups images by operation, which no compiler can
    if is_on_gpu and hasattr(data, "compile_augmentation"):
        data.compile_augmentation(**options)
        return lambda function: torch.compile(function, dynamic=False, **options)
    return lambda function: function
