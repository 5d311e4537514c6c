"""Exports a model for other programs: a folder with weights and settings, or with a program.

ViT -> model.safetensors config.json | model.onnx | model.pt2

Every export is read back, and its logits are compared with the model's.
"""

import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

import vitlit
from vitlit.deploy.export_mapping import (
    hugging_face_files,
    hugging_face_tensors,
    own_metadata,
    timm_files,
    timm_tensors,
)
from vitlit.deploy.portable import Naming, Portable, choose_naming, make_portable
from vitlit.errors import InputError
from vitlit.files import whole_folder
from vitlit.images.preprocess import Preprocess
from vitlit.images.published_framing import processor_difference
from vitlit.messages import LINE_WIDTH, filled
from vitlit.model.encoder import uncompiled
from vitlit.model.vit import ViT
from vitlit.weights.architecture import check_finite
from vitlit.weights.file_reader import WEIGHT_NAMES
from vitlit.weights.pretrained import load_weights

ExportFormat = Literal["safetensors", "onnx", "pt2"]
Program = Callable[[Tensor], Tensor]  # normalised images (B, C, H, W) -> logits (B, K)
ONNX_NAME, PT2_NAME, FACTS_NAME = "model.onnx", "model.pt2", "metadata.json"
# relative to the largest logit; ONNX Runtime differs by 2e-6 (benchmarks/logits.md)
MAX_DIFFERENCE = 1e-4
CHECKED_BATCHES = (1, 3)  # images; not TRACED_IMAGES, so that a fixed batch size is noticed
TRACED_IMAGES = 2  # images; torch.export takes a batch of 1 for a constant


class Exported(NamedTuple):
    """What was written.

    difference: maximum difference between the logits of the model and of the files, relative to
    the largest logit; message: the same in words, with the line that loads the files.
    """

    folder: Path
    files: list[Path]
    difference: float
    message: str


def export_model(
    model: ViT,
    preprocess: Preprocess,
    class_names: Sequence[str],
    out: str | Path,
    *,
    format: ExportFormat = "safetensors",
    naming: Naming | None = None,
) -> Exported:
    """Write the model into the new folder ``out``, which is complete or does not exist.

    format: safetensors (weights and their settings), onnx (a program for ONNX Runtime and others)
    or pt2 (a program for torch.export.load). naming: parameter names of a safetensors file: timm,
    huggingface, or vitlit, which holds any model but is read by this package alone; by default
    the first that can hold the model. A model without a head needs no class_names and gives its
    features. The model is left on the CPU, in float32 and in evaluation mode. Raises InputError
    if ``out`` exists, the naming cannot hold the model, or the export computes other logits.
    """
    folder = Path(out).expanduser()
    _check_export_choices(format, naming)
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} exists; give another name, or remove it", argument="out")
    model = model.cpu().float().eval()
    check_finite(model.state_dict(), "the model")
    portable = make_portable(model, preprocess, class_names)
    chosen, why = choose_naming(naming, portable.arguments)
    with whole_folder(folder) as part:
        match format:
            case "safetensors":
                program = _write_safetensors(portable, part, chosen)
            case "onnx":
                program = _write_onnx(portable, part / ONNX_NAME)
            case "pt2":
                program = _write_pt2(portable, part / PT2_NAME)
        difference = _output_difference(model, preprocess, program, portable)
        del program  # it may hold a file open, and some systems cannot rename open files
    files = sorted(folder.iterdir())
    lines = [_how_to_load(portable, folder, format, chosen)]
    lines += [why] if format == "safetensors" else []
    if chosen == "huggingface":
        lines += list(filter(None, [processor_difference(portable.framing, model.img_size)]))
    return Exported(folder, files, difference, _message(portable, folder, files, difference, lines))


def _check_export_choices(format: str, naming: Naming | None) -> None:
    if format not in get_args(ExportFormat):
        raise InputError(f"unknown format {format!r}; known: {', '.join(get_args(ExportFormat))}")
    if naming is None:
        return
    if naming not in get_args(Naming):
        raise InputError(f"unknown naming {naming!r}; known: {', '.join(get_args(Naming))}")
    if format != "safetensors":
        raise InputError(
            f"naming applies to format safetensors; leave it out with {format}", argument="naming"
        )


def _write_safetensors(portable: Portable, folder: Path, naming: Naming) -> Program:
    from safetensors.torch import save_file

    metadata = {"format": "pt"}  # transformers refuses a file without it
    settings: dict[str, Any] = {}
    if naming == "huggingface":
        tensors = hugging_face_tensors(portable)
        settings = hugging_face_files(portable)
    else:
        tensors = portable.model.state_dict() if naming == "vitlit" else timm_tensors(portable)
        metadata |= own_metadata(portable)
    if naming == "timm":
        settings = timm_files(portable)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    file = folder / WEIGHT_NAMES[0]
    save_file(tensors, file, metadata=metadata)
    file.chmod(folder.stat().st_mode & 0o666)  # safetensors makes it readable by its owner alone
    # ASCII: some readers open these files in the encoding of their system
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")
    weights = load_weights(folder)  # as any published weights are read
    model = ViT(**weights.arguments)
    model.load_state_dict(weights.state)
    return model.eval()


def _write_onnx(portable: Portable, path: Path) -> Program:
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


def _write_pt2(portable: Portable, path: Path) -> Program:
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
    return {
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
        return f"logits: float32 (B, {len(portable.class_names)}), in the order of class_names"
    return f"features: float32 (B, {portable.model.embed_dim}), since the weights have no head"


@torch.no_grad()
def _output_difference(
    model: ViT, preprocess: Preprocess, program: Program, portable: Portable
) -> float:
    """Maximum difference of the outputs for random pixels, relative to the largest output."""
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(row).view(-1, 1, 1) for row in (portable.mean, portable.std))
    worst = 0.0
    for count in CHECKED_BATCHES:
        shape = (count, *portable.input_size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        with uncompiled():  # a compiled model would be compiled again
            wanted = model(preprocess(pixels))
        if not wanted.isfinite().all():
            raise InputError(
                "the model gives no finite numbers, so its weights are broken; nothing was "
                "written, give other weights, such as an earlier checkpoint"
            )
        # normalised as told to other programs, not by preprocess: this checks mean and std too
        got = program((pixels / 255 - mean) / std)
        largest = wanted.abs().amax().clamp(min=torch.finfo(wanted.dtype).tiny)
        difference = ((got - wanted).abs().amax() / largest).item()
        if not difference <= MAX_DIFFERENCE:  # not ">": NaN must be refused
            raise InputError(
                f"the exported model's {portable.output} differ by {difference:.1e} of the largest "
                f"from the model's, more than {MAX_DIFFERENCE}; nothing was written, give another "
                f"format",
                argument="format",
            )
        worst = max(worst, difference)
    return worst


def _how_to_load(portable: Portable, folder: Path, format: ExportFormat, naming: Naming) -> str:
    match format, naming:
        case "safetensors", "vitlit":
            return f'vitlit.load("{folder}")'
        case "safetensors", "timm":
            return f'timm.create_model("local-dir:{folder}", pretrained=True)'
        case "safetensors", _ if portable.class_names:
            return f'transformers.ViTForImageClassification.from_pretrained("{folder}")'
        case "safetensors", _:  # transformers' pooler is a layer that we have no weights for
            return f'transformers.ViTModel.from_pretrained("{folder}", add_pooling_layer=False)'
        case "onnx", _:
            return f'onnxruntime.InferenceSession("{folder / ONNX_NAME}")'
    return f'torch.export.load("{folder / PT2_NAME}").module()'


def _message(
    portable: Portable, folder: Path, files: list[Path], difference: float, lines: list[str]
) -> str:
    """lines: how to load the files, then further remarks."""
    load, *more = lines
    shape = ", ".join(map(str, portable.input_size))
    width = len(portable.class_names) or portable.model.embed_dim
    rows = (portable.mean, portable.std)
    mean, std = (", ".join(f"{value:.6g}" for value in row) for row in rows)
    # code that is to be copied has a line to itself rather than a break
    joint = "\n  " if len(f"load it with {load}") > LINE_WIDTH else " "
    return "\n".join(
        [
            filled(f"wrote {folder}: {', '.join(file.name for file in files)}"),
            *map(filled, more),
            f"load it with{joint}{load}",
            filled(
                f"it takes images (B, {shape}) of (pixels / 255 - mean) / std, with mean [{mean}] "
                f"and std [{std}], and gives {portable.output} (B, {width})"
            ),
            f"read again, its {portable.output} differ by at most {difference:.1e} of the largest",
        ]
    )
