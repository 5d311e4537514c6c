"""An exported ONNX program in 8-bit integers, and what they cost in accuracy.

folder of an export -> model.int8.onnx beside model.onnx, lines for the terminal
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vitlit.data.datamodule import PlainImageData
from vitlit.deploy.programs import ONNX_NAME
from vitlit.deploy.words import ExportFormat
from vitlit.errors import InputError
from vitlit.evaluation.inference import Compute, Rows, collect, evenly_thinned, loader_of
from vitlit.files import replacing
from vitlit.messages import labelled
from vitlit.patches import unpatchify
from vitlit.tasks.known import DEFAULT
from vitlit.tasks.task import Task

Quantize = Literal["none", "int8"]
INT8_NAME = "model.int8.onnx"
MOST_IMAGES = 2000  # of the validation split; more would tell the difference no better


def check_quantize(quantize: Quantize, format: ExportFormat, *, preprocess: bool) -> None:
    """Refuse integers in a format that has none, and beside preprocessing."""
    if quantize != "none" and format != "onnx":
        raise InputError(
            f"quantize {quantize} applies to format onnx; leave it out with {format}",
            argument=("quantize", "format"),
        )
    if quantize != "none" and preprocess:
        raise InputError(
            f"quantize {quantize} needs a program that takes normalised images; leave out either "
            f"quantize or preprocess true",
            argument=("quantize", "preprocess"),
        )


def write_int8(folder: Path) -> Path:
    """Write the program of an export to ONNX once more, its matrices in 8-bit integers.

    Weights are scaled for each output, activations for each tensor while the program runs. The
    convolution of the patches, attention's products and all norms stay in float32. Weights use 7
    of the 8 bits: processors with AVX2 alone add pairs of products in 16 bits, which would
    overflow (onnxruntime's documentation of quantization, "reduce_range").
    """
    onnx: Any = import_module("onnx")
    quantization: Any = import_module("onnxruntime.quantization")
    model = onnx.load(folder / ONNX_NAME)
    # Shapes noted by torch's exporter before it simplified the program: some no longer hold.
    model.graph.ClearField("value_info")
    file = folder / INT8_NAME
    with replacing(file) as part, _without_advice():
        quantization.quantize_dynamic(
            model,
            part,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
    return file


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without ONNX Runtime's advice to prepare the program by a step that changes nothing here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def int8_lines(
    folder: Path, data: PlainImageData, *, patch_size: int, has_head: bool, task: Task = DEFAULT
) -> list[str]:
    """Sizes of both programs, and their accuracy on the validation split where it is at hand."""
    sizes = [(folder / name).stat().st_size / 1e6 for name in (INT8_NAME, ONNX_NAME)]
    lines = [labelled("int8", f"{INT8_NAME}, {sizes[0]:.1f} MB instead of {sizes[1]:.1f}")]
    name = f"val/{task.monitors[0]}"
    if not has_head:
        return [*lines, labelled(name, "not measured, since the model has no head")]
    try:
        data.setup("validate")  # downloads nothing: what an export writes needs no data
    except InputError as error:
        return [*lines, labelled(name, f"not measured: {error}")]
    full, small = (_rows(folder / name, data, patch_size) for name in (ONNX_NAME, INT8_NAME))
    found = []
    for rows in (full, small):
        scores = task.scores(rows.values.shape[1])
        scores.update(rows.values, rows.labels)
        found.append(float(scores.compute()[task.monitors[0]]))
    text = f"{found[1]:.4f} in int8, {found[0]:.4f} in float32"
    if task.name == DEFAULT.name:
        same = (full.values.argmax(dim=1) == small.values.argmax(dim=1)).double().mean().item()
        text += f"; the same class for {same:.2%}"
    return [*lines, labelled(name, f"{text} ({len(full.labels):,} images)")]


def _rows(program: Path, data: PlainImageData, patch_size: int) -> Rows:
    """The logits of a program for the validation split."""
    split = evenly_thinned(data.splits["val"], MOST_IMAGES)
    compute = _runner(program, data, patch_size)
    return collect(data, loader_of(data, split), compute, torch.device("cpu")).rows()


def _runner(program: Path, data: PlainImageData, patch_size: int) -> Compute:
    onnxruntime: Any = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    # The exported program takes pixels as they are, with the sign in its weights.
    sign = -1 if data.preprocess.invert else 1

    def run(x: Tensor) -> Tensor:
        images = unpatchify(x, patch_size, data.preprocess.img_size) if x.ndim == 3 else x
        return torch.from_numpy(session.run(None, {"images": (sign * images).numpy()})[0])

    return run
