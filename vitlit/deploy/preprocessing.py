"""The preprocessing of an ONNX program, inside it: pixels of any size in, probabilities out.

model.onnx: images (B, C, H, W) -> logits; with it: image uint8 (h, w, 3) -> probabilities (K,)

onnx_steps.py has the steps. An antialiased Resize of ONNX Runtime is at most 2 grey levels away
from torch's, on fewer than one pixel in a hundred.
"""

import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitlit.deploy.onnx_steps import numbers, preprocessing_text
from vitlit.deploy.portable import Portable
from vitlit.errors import InputError
from vitlit.images.preprocess import Preprocess
from vitlit.tasks.task import TaskName

INPUT, OUTPUT = "image", {"logits": "probabilities", "features": "image_features"}
STEPS: dict[TaskName, str] = {
    "single_label": "Softmax <axis = -1>",
    "multi_label": "Sigmoid",
    "regression": "Identity",
}
# Sizes (height, width) of the noise by which a program is checked: wide, tall, a panorama, small.
CHECKED_SIZES = ((240, 321), (333, 197), (40, 1501), (31, 23))
# of probabilities: pixels that Resize rounds the other way move them by about 1e-3
MAX_DIFFERENCE = 0.02


def check_with_preprocessing(with_preprocessing: bool, format: str, in_chans: int) -> None:
    """Refuse preprocessing in formats without it, and for channels that are no picture's."""
    if not with_preprocessing:
        return
    if format != "onnx":
        raise InputError(
            f"preprocess true applies to format onnx; leave it out with {format}",
            argument=("preprocess", "format"),
        )
    if in_chans not in (1, 3):
        raise InputError(
            f"preprocess true needs a model of 1 or 3 channels, and this one has {in_chans}; "
            f"leave it out",
            argument="preprocess",
        )


def add_preprocessing(portable: Portable, preprocess: Preprocess, path: Path) -> float:
    """Change the program in place; the maximum difference to predict on pictures of noise.

    Of probabilities, or of numbers and features relative to the largest. Raises InputError if it
    is too large.
    """
    onnx: Any = import_module("onnx")
    model = onnx.load(path)
    (version,) = (one.version for one in model.opset_import if not one.domain)
    head = f'<ir_version: {model.ir_version}, opset_import: ["": {version}]>'
    facts = {entry.key: entry.value for entry in model.metadata_props}
    before = onnx.parser.parse_model(head + preprocessing_text(portable, preprocess))
    after = onnx.parser.parse_model(head + _after(portable))
    whole = onnx.compose.merge_models(before, model, io_map=[("images", "images")])
    whole = onnx.compose.merge_models(whole, after, io_map=[(portable.output, portable.output)])
    del whole.metadata_props[:]
    output = output_name(portable)
    facts |= {
        "input": f"{INPUT}: uint8 (height, width, 3), red, green, blue, of any size",
        "output": f"{output}: float32 ({_width(portable)},)",
        "pixels": "0 to 255, as they are in the file; this program resizes and normalises them",
    }
    onnx.helper.set_model_props(whole, facts)
    onnx.checker.check_model(whole)
    onnx.save(whole, path)
    found = _difference(portable, preprocess, path)
    if not found <= MAX_DIFFERENCE:  # not ">": NaN must be refused
        raise InputError(
            f"with preprocessing the {output} differ by {found:.1e} from the model's, more than "
            f"{MAX_DIFFERENCE}; nothing was written, leave preprocess out",
            argument="preprocess",
        )
    return found


def output_name(portable: Portable) -> str:
    """The name of the program's output: what predict gives, without a head features."""
    return "numbers" if portable.task.name == "regression" else OUTPUT[portable.output]


def _width(portable: Portable) -> int:
    return len(portable.class_names) or portable.model.embed_dim


def _after(portable: Portable) -> str:
    """The outputs of one image -> probabilities, or features where there is no head."""
    name, out, count = portable.output, output_name(portable), _width(portable)
    step = STEPS[portable.task.name] if portable.class_names else "Identity"
    return (
        f"\nanswer (float[batch, {count}] {name}) => (float[{count}] {out})\n{{\n"
        f"  pp_first = {numbers('int64', 0)}\n  pp_answer = {step} ({name})\n"
        f"  {out} = Squeeze (pp_answer, pp_first)\n}}"
    )


@torch.no_grad()
def _difference(portable: Portable, preprocess: Preprocess, path: Path) -> float:
    """Maximum difference between the answers of the program and those for the same files."""
    onnxruntime: Any = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng, worst = np.random.default_rng(0), 0.0
    for height, width in CHECKED_SIZES:
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        (got,) = session.run(None, {INPUT: np.asarray(picture)})
        wanted = _answer(portable, preprocess, picture)
        is_share = portable.class_names and portable.task.name != "regression"
        largest = 1.0 if is_share else wanted.abs().max().item()
        worst = max(worst, (torch.from_numpy(got) - wanted).abs().max().item() / largest)
    return worst


def _answer(portable: Portable, preprocess: Preprocess, picture: Image.Image) -> Tensor:
    """What the model answers to the picture's file, read as predict reads it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "noise.png"
        picture.save(file, compress_level=1)
        pixels = preprocess.read(file)
    # not inverted: the sign is in the weights
    plain = replace(preprocess, mean=portable.mean, invert=False)
    output = portable.model(plain(pixels[None]))[0]
    return portable.task.answers(output[None])[0] if portable.class_names else output
