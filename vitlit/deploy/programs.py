"""A model as a program of its own: ONNX, for ONNX Runtime and others, or a file of torch.export.

Portable -> model.onnx | model.pt2, and a function that runs the file
"""

import importlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vitlit
from vitlit.deploy.portable import Portable
from vitlit.errors import InputError

Program = Callable[[Tensor], Tensor]  # normalised images (B, C, H, W) -> logits (B, K)
ONNX_NAME, PT2_NAME, FACTS_NAME = "model.onnx", "model.pt2", "metadata.json"
TRACED_IMAGES = 2  # images; torch.export takes a batch of 1 for a constant


def write_onnx(portable: Portable, path: Path) -> Program:
    onnxruntime = _onnx_packages()
    with _without_others_warnings():
        program: Any = torch.onnx.export(  # only dynamo's exporter takes dynamic_shapes
            portable.model,
            (_example_images(portable),),
            dynamo=True,
            dynamic_shapes=_dynamic_batch(),
            input_names=["images"],
            output_names=[portable.output],
            verbose=False,
        )
        program.model.metadata_props.update(_facts(portable))
        program.save(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([portable.output], {"images": images.numpy()})[0])

    return run


def _onnx_packages() -> Any:
    """ONNX Runtime; refuses if a package is missing that torch needs to write ONNX."""
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise InputError(
            f"format onnx needs the package {error.name}: pip install 'vitlit[onnx]'; "
            f"format pt2 needs none",
            argument="format",
        ) from error


def write_pt2(portable: Portable, path: Path) -> Program:
    with _without_others_warnings():
        program = torch.export.export(
            portable.model, (_example_images(portable),), dynamic_shapes=_dynamic_batch()
        )
        facts = json.dumps(_facts(portable), indent=2)
        torch.export.save(program, path, extra_files={FACTS_NAME: facts})
        return torch.export.load(path).module()


def _example_images(portable: Portable) -> Tensor:
    """Zeros that programs are traced with; ViT never branches on pixels, so any numbers do."""
    return torch.zeros(TRACED_IMAGES, *portable.input_size)


def _dynamic_batch() -> dict[str, dict[int, Any]]:
    return {"x": {0: torch.export.Dim("batch")}}  # x: the argument of ViT.forward


@contextmanager
def _without_others_warnings() -> Iterator[None]:
    """Hide warnings of the exporters about their own code, which a user cannot fix."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(torch|onnx|copyreg|numpy)")
        yield


def _facts(portable: Portable) -> dict[str, str]:
    """What the user of a program must know; lists are JSON, in ASCII for every reader."""
    channels, height, width = portable.input_size
    colours = {1: "grey", 3: "red, green, blue"}.get(channels, f"{channels} channels")
    told = portable.task.told(len(portable.class_names))
    return {
        **{name: v if isinstance(v, str) else json.dumps(v) for name, v in told.items()},
        "input": f"images: float32 (B, {channels}, {height}, {width}), {colours}",
        "output": _output(portable),
        "pixels": "images = (value / 255 - mean) / std, with values of 0 to 255, by channel",
        "resize": portable.framing.describe((height, width)),
        "input_size": json.dumps(portable.input_size),
        "mean": json.dumps(portable.mean),
        "std": json.dumps(portable.std),
        "class_names": json.dumps(portable.class_names),
        "made_by": f"vitlit {vitlit.__version__}",
    }


def _output(portable: Portable) -> str:
    if portable.class_names:
        return (
            f"logits: float32 (B, {len(portable.class_names)}), in the order of class_names"
            f"{portable.task.output_words()}"
        )
    return f"features: float32 (B, {portable.model.embed_dim}), since the weights have no head"
