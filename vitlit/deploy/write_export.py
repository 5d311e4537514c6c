"""What ``export`` does with a model: files, 8-bit integers, a model card, an upload.

model, data, choices -> a folder, lines for the terminal
"""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vitlit.data.datamodule import PlainImageData
from vitlit.deploy.export import export_model
from vitlit.deploy.int8 import Quantize, check_quantize, int8_lines, write_int8
from vitlit.deploy.origin import origin_of
from vitlit.deploy.portable import Naming
from vitlit.deploy.push import check_push, push_folder
from vitlit.deploy.words import ExportFormat
from vitlit.model.vit import ViT
from vitlit.tasks.known import make_task
from vitlit.tasks.task import Task


class Trained(Protocol):
    """What is known of a model besides its weights: its classes, and the settings of its run."""

    vit: ViT
    class_names: list[str]
    hparams: Any
    task: Task

    @property
    def num_classes(self) -> int:
        """0 without a head."""


class ExportChoices(NamedTuple):
    """The options of the command, of the same names."""

    format: ExportFormat
    naming: Naming | None
    preprocess: bool
    quantize: Quantize
    push: str | None

    def check(self) -> None:
        """Refuse options that contradict each other, before anything is read."""
        check_quantize(self.quantize, self.format, preprocess=self.preprocess)
        check_push(self.push)


def write_export(
    model: Trained,
    data: PlainImageData,
    checkpoint: str | None,
    choices: ExportChoices,
    folder: Path,
) -> list[str]:
    """Write the folder, and upload it if asked to; the lines to print.

    checkpoint: whose weights the model has; None for published ones.
    """
    task = make_task({"task": model.task.name, **model.task.told(model.num_classes)})
    model.vit.load_state_dict(model.task.self_contained(model.vit.state_dict()))
    # remove_head leaves class_names as they were, so the head is asked first.
    names = model.class_names if model.num_classes else []
    found = export_model(
        model.vit,
        data.preprocess,
        names,
        folder,
        format=choices.format,
        naming=choices.naming,
        with_preprocessing=choices.preprocess,
        origin=origin_of(model.hparams, data.hparams, checkpoint),
        repository=choices.push,
        task=task,
    )
    lines = [found.message]
    if choices.quantize == "int8":
        write_int8(folder)
        about = {
            "patch_size": model.vit.config["patch_size"],
            "has_head": bool(names),
            "task": task,
        }
        lines += int8_lines(folder, data, **about)
    if choices.push is not None:
        lines.append(f"uploaded to {push_folder(folder, choices.push)}")
    return lines
