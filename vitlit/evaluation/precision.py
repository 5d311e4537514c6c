"""Chooses the precision: one rule for all commands, and what it means for a forward pass.

command, device, precision of the training, option -> precision, by Lightning's name, and why
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from vitlit.model import attention

FULL_PRECISION, MIXED_PRECISION = "32-true", "bf16-mixed"
PRECISION_ALIASES = {  # short names that Lightning takes too -> its full ones
    "16": "16-mixed",
    "bf16": MIXED_PRECISION,
    "32": FULL_PRECISION,
    "64": "64-true",
}
DTYPES = {"64": torch.float64, "32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


class PrecisionChoice(NamedTuple):
    """name: Lightning's; why: the rest of a sentence that begins with the name."""

    name: str
    why: str


def device_type(accelerator: str) -> str:
    """cuda, mps or cpu: the type of device that Lightning uses with this accelerator."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def choose_precision(
    command: str, device: str, trained: str | None, given: str | None, place: str = "the caller"
) -> PrecisionChoice:
    """The precision that the command computes in.

    device: its type; trained: the precision of the checkpoint's training, None if not known;
    given: the precision asked for, and place: where, for the reason.

    A checkpoint is scored in the precision of its training if the hardware supports it, so that all
    commands agree on one machine, and else in float32. float16 is never chosen for a training: it
    needs a scaler, and its range loses small gradients.
    """
    if command == "export":  # others may run the files anywhere, and logits are compared to 1e-4
        return PrecisionChoice(FULL_PRECISION, "as for every export")
    if given is not None:
        name = _full_name(given)
        slow = "" if _is_fast(name, device) else ", though this hardware only emulates it"
        if slow and command == "fit":
            slow += f": other commands will score in {FULL_PRECISION} here"
        return PrecisionChoice(name, f"as {place} says{slow}")
    if command == "fit":
        name = MIXED_PRECISION if attention.has_bf16_units(device) else FULL_PRECISION
        return PrecisionChoice(name, "chosen for this device")
    if trained is None:
        return PrecisionChoice(
            FULL_PRECISION, "since the weights do not say which precision they were trained in"
        )
    name = _full_name(trained)
    # without units the training's precision would only be slower than float32
    if _is_fast(name, device):
        return PrecisionChoice(name, "as in training")
    return PrecisionChoice(FULL_PRECISION, f"since this hardware does not support {name}")


def _full_name(name: str) -> str:
    return PRECISION_ALIASES.get(str(name), str(name))


def _is_fast(name: str, device: str) -> bool:
    """Whether the device computes in that precision by hardware, not by emulation."""
    match name:
        case "32-true":
            return True
        case "bf16-mixed" | "bf16-true":
            return attention.has_bf16_units(device)
        case "16-mixed" | "16-true":  # processors compute float16 slowly
            return device != "cpu"
        case "64-true":  # Apple's GPUs have no float64
            return device != "mps"
    return device == "cuda" and name.startswith("transformer-engine")  # NVIDIA's, in 8 bits


def weights_dtype(name: str) -> torch.dtype:
    """The type of weights and images in a precision; float32 in a mixed one."""
    kind, _, rest = name.partition("-")
    return DTYPES.get(kind, torch.float32) if rest == "true" else torch.float32


@contextmanager
def computing_in(name: str, device: str) -> Iterator[None]:
    """Forward passes inside compute as Lightning's do; weights have :func:`weights_dtype`."""
    is_mixed = name.endswith("-mixed")  # in a true precision the weights decide
    dtype = DTYPES[name.split("-")[0]] if is_mixed else None
    with torch.autocast(device, dtype=dtype, enabled=is_mixed):
        yield


def in_precision(
    compute: Callable[[Tensor], Tensor], name: str, device: str
) -> Callable[[Tensor], Tensor]:
    """``compute`` in that precision, for a model whose weights have :func:`weights_dtype`."""

    def run(x: Tensor) -> Tensor:
        with computing_in(name, device):
            return compute(x.to(weights_dtype(name)))

    return run
