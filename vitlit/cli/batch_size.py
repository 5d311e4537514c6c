"""``--data.batch_size auto``: the largest power of two of images that the GPU's memory holds.

settings of a command -> a number; or model, data -> trial steps of 1, 2, 4, … images -> a number

A trial is a forward and a backward pass of the model in the training's precision, with room for the
optimiser's state.
"""

import copy
import gc
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vitlit.cli.from_checkpoint import FromCheckpoint
from vitlit.cli.from_weights import FromWeights
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError, find_text, inform
from vitlit.evaluation.precision import computing_in, device_type, weights_dtype
from vitlit.patches import patchify
from vitlit.training.trainable import TrainableViT
from vitlit.weights.checkpoint import DATA_KEY

AUTO = "auto"
MEMORY_SHARE = 0.9  # of the GPU's memory; the rest is for the augmentation and what lies unused
LAUNCHED = ("WORLD_SIZE", "SLURM_NTASKS")  # set to the number of processes by torchrun and srun


def default_batch_size() -> int:
    """The number of images in a batch where nobody gives one."""
    usual: int = inspect.signature(PlainImageData).parameters["batch_size"].default
    return usual


def settle_batch_size(
    settings: Any, command: str, start: FromCheckpoint | FromWeights | None
) -> None:
    """Put a number in the place of auto, and say it; but leave a trial on a GPU for later."""
    if settings["data"]["batch_size"] != AUTO:
        return
    kind = device_type(str(settings["trainer"]["accelerator"]))
    if command == "fit" and isinstance(start, FromCheckpoint):
        size, why = start.content[DATA_KEY]["batch_size"], f"as in {start.path}"
    elif command != "fit":
        size, why = default_batch_size(), "the default, as auto works only in fit"
    elif kind != "cuda":
        size, why = default_batch_size(), f"the default, as auto has no effect on a {kind} device"
    else:
        _check_one_process(settings["trainer"])
        return
    settings["data"]["batch_size"] = size
    inform(f"data.batch_size {size}, {why}")


def _check_one_process(trainer: Any) -> None:
    """Refuse several processes: each would find its own number."""
    devices, nodes = trainer["devices"], trainer.get("num_nodes") or 1
    count = torch.cuda.device_count() if devices in ("auto", -1, "-1") else devices
    count = len(count) if isinstance(count, list) else count
    launched = [os.environ.get(name, "1") for name in LAUNCHED]
    if str(count) != "1" or nodes != 1 or any(number != "1" for number in launched):
        raise InputError(
            "batch_size auto tries batches on one GPU, and this training has several processes; "
            "find the number with --trainer.devices 1, then give it",
            argument="batch_size",
        )


def choose_batch_size(request: Any, model: TrainableViT, data: PlainImageData) -> None:
    """Replace auto, where it is left, by the largest batch that fits; in settings and data.

    request: the Request of the command; only one of ``fit`` has auto left.
    """
    settings, start = request.settings, request.start
    if settings["data"]["batch_size"] != AUTO:
        return
    if isinstance(start, FromWeights) and start.weights.past is not None:
        data.hold_to(start.weights.past)  # before setup
    data.prepare_data()
    data.setup("fit")
    precision = str(settings["trainer"]["precision"])
    device = torch.device("cuda", _first_device(settings["trainer"]["devices"]))
    size = largest_batch(
        lambda count: fits(model, data, count, device, precision), len(data.splits["train"])
    )
    settings["data"]["batch_size"] = size
    data.use_batch_size(size)
    inform(f"data.batch_size {size}, the largest power of two that fits this GPU in {precision}")


def _first_device(devices: Any) -> int:
    return int(devices[0]) if isinstance(devices, list) else 0


def largest_batch(does_fit: Callable[[int], bool], images: int) -> int:
    """The largest power of two, at most ``images``, that fits; what is larger is never tried.

    Raises InputError if one image does not fit.
    """
    if not does_fit(1):
        raise InputError(
            "this GPU has too little memory for a training step with one image; give "
            "grad_checkpointing true, a smaller img_size or a smaller model",
            argument=("grad_checkpointing", "img_size"),
        )
    size = 1
    while 2 * size <= images and does_fit(2 * size):
        size *= 2
    return size


def fits(
    model: TrainableViT, data: PlainImageData, size: int, device: torch.device, precision: str
) -> bool:
    """Whether the memory of a GPU holds a training step of ``size`` images; leaves it empty."""
    try:
        with _sharing_memory(device):
            trial_step(model, data, size, device, precision)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or find_text("no memory", str(error)):
            return False
        raise
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


@contextmanager
def _sharing_memory(device: torch.device) -> Iterator[None]:
    """Within it, the process may use ``MEMORY_SHARE`` of the device's memory."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(MEMORY_SHARE, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def trial_step(
    model: TrainableViT, data: PlainImageData, size: int, device: torch.device, precision: str
) -> None:
    """A step with blank images, without the update, on a copy of the model."""
    vit = copy.deepcopy(model.vit).to(device, weights_dtype(precision)).train()
    trained = [weight for weight in vit.parameters() if weight.requires_grad]
    # AdamW's two moments, more than which no optimiser keeps. The average of the weights, if there
    # is one, is not held: without activations its share is small.
    moments = [torch.zeros_like(weight) for weight in trained for _ in range(2)]
    images = torch.zeros(size, data.in_chans, *data.preprocess.img_size, device=device)
    x = patchify(images, data.patch_size) if data.patchify else images
    labels = torch.zeros(size, data.num_classes, device=device)  # as mixing makes them
    with computing_in(precision, device.type):
        loss = model.task.loss(vit(x.to(weights_dtype(precision))), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    del moments  # held until here
