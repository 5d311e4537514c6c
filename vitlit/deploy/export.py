"""Exports a model for other programs: a folder with weights and settings, or with a program.

ViT -> model.safetensors config.json | model.onnx | model.pt2

Every export is read back, and its logits are compared with the model's.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

from vitlit.deploy.export_mapping import own_metadata, timm_files, timm_tensors
from vitlit.deploy.hugging_face import hugging_face_files, hugging_face_tensors
from vitlit.deploy.model_card import CARD_NAME, model_card
from vitlit.deploy.origin import Origin
from vitlit.deploy.portable import Naming, Portable, choose_naming, make_portable
from vitlit.deploy.preprocessing import add_preprocessing, check_with_preprocessing
from vitlit.deploy.programs import (
    ONNX_NAME,
    PT2_NAME,
    Program,
    write_onnx,
    write_pt2,
)
from vitlit.deploy.web import MAX_HALF_DIFFERENCE, WEB_NAME, write_web
from vitlit.deploy.words import ExportFormat, Words
from vitlit.errors import InputError
from vitlit.files import expanded, whole_folder
from vitlit.images.preprocess import Preprocess
from vitlit.images.published_framing import processor_difference
from vitlit.model.encoder import uncompiled
from vitlit.model.vit import ViT
from vitlit.tasks.known import DEFAULT
from vitlit.tasks.task import Task
from vitlit.weights.adapt import adapt_weights
from vitlit.weights.architecture import check_finite_weights
from vitlit.weights.file_reader import WEIGHT_NAMES
from vitlit.weights.pretrained import load_weights

UNKNOWN_ORIGIN = Origin()
# relative to the largest logit; ONNX Runtime differs by 2e-6 (benchmarks/logits.md)
MAX_DIFFERENCE = 1e-4
CHECKED_BATCHES = (1, 3)  # images; not TRACED_IMAGES, so that a fixed batch size is noticed


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
    with_preprocessing: bool = False,
    origin: Origin = UNKNOWN_ORIGIN,
    repository: str | None = None,
    task: Task = DEFAULT,
) -> Exported:
    """Write the model into the new folder ``out``, which is complete or does not exist.

    format: safetensors (weights and their settings), onnx (a program for ONNX Runtime and others),
    pt2 (a program for torch.export.load) or web (a page that runs the model). naming: parameter
    names of a safetensors file: timm, huggingface, or vitlit, which holds any model but is read by
    this package alone; by default the first that can hold the model. A model without a head needs
    no class_names and gives its features. The model is left on the CPU, in float32 and in
    evaluation mode. with_preprocessing: whether the onnx program takes the pixels of one image of
    any size. origin, repository: for the model card, README.md; task: of the model. Raises
    InputError if ``out`` exists, the format or naming cannot hold the model, or the export computes
    other logits.
    """
    folder = expanded(out)
    _check_export_choices(format, naming)
    if format == "web":
        task.require("web", argument="format")
    check_with_preprocessing(with_preprocessing, format, model.in_chans)
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} exists; give another name, or remove it", argument="out")
    model = model.cpu().float().eval()
    check_finite_weights(model.state_dict(), "the model")
    portable = make_portable(model, preprocess, class_names, task)
    chosen, why = choose_naming(naming, portable.arguments)
    with whole_folder(folder) as part:
        match format:
            case "safetensors":
                program = _write_safetensors(portable, part, chosen)
            case "onnx":
                program = write_onnx(portable, part / ONNX_NAME)
            case "pt2":
                program = write_pt2(portable, part / PT2_NAME)
            case "web":
                program = write_web(portable, preprocess, part / WEB_NAME)
        difference = _output_difference(model, preprocess, program, portable, format)
        moved = None
        if with_preprocessing:
            moved = add_preprocessing(portable, preprocess, part / ONNX_NAME)
        words = Words(portable, format, chosen, folder, moved)
        card = model_card(words._replace(folder=Path(folder.name)), origin, repository)
        (part / CARD_NAME).write_text(card, encoding="utf-8", errors="replace")
        del program  # it may hold a file open, and some systems cannot rename open files
    files = sorted(folder.iterdir())
    remarks = [why] if format == "safetensors" else []
    if chosen == "huggingface":
        remarks += filter(None, [processor_difference(portable.framing, model.img_size)])
    return Exported(folder, files, difference, words.message(files, difference, remarks))


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
        metadata |= own_metadata(portable, naming)
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
    model.load_state_dict(adapt_weights(weights, model).state)  # as vitlit.load does
    return model.eval()


@torch.no_grad()
def _output_difference(
    model: ViT, preprocess: Preprocess, program: Program, portable: Portable, format: ExportFormat
) -> float:
    """Maximum difference of the outputs for random pixels, relative to the largest output."""
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(row).view(-1, 1, 1) for row in (portable.mean, portable.std))
    limit = MAX_HALF_DIFFERENCE if format == "web" else MAX_DIFFERENCE
    worst = 0.0
    for count in CHECKED_BATCHES:
        shape = (count, *portable.input_size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        with uncompiled():  # a compiled model would be compiled again
            wanted = model(preprocess(pixels))
        if not wanted.isfinite().all():
            raise InputError(
                "the outputs of the model are not finite, so its weights are damaged; nothing was "
                "written; give other weights, such as an earlier checkpoint"
            )
        # normalised as told to other programs, not by preprocess: this checks mean and std too
        got = program((pixels / 255 - mean) / std)
        largest = wanted.abs().amax().clamp(min=torch.finfo(wanted.dtype).tiny)
        difference = ((got - wanted).abs().amax() / largest).item()
        if not difference <= limit:  # not ">": NaN must be refused
            raise InputError(
                f"the exported model's {portable.output} differ by {difference:.1e} of the largest "
                f"from the model's, more than {limit}; nothing was written, give another "
                f"format",
                argument="format",
            )
        worst = max(worst, difference)
    return worst
