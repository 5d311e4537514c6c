"""Where a command computes if it needs no Lightning: one device, in one process.

words -> whether they ask for more; settings of the trainer -> device, precision
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vitlit.cli.advice import TRUST_OPTION
from vitlit.cli.from_weights import origins
from vitlit.cli.overview import QUICK_COMMANDS
from vitlit.cli.parser import join_lists, name_checkpoints
from vitlit.commands.own_commands import Commands, fill_from_checkpoint
from vitlit.data.batch import Batch
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError, Stopped
from vitlit.evaluation.inference import Compute, answer, flip_average, loader_of
from vitlit.evaluation.precision import device_type, in_precision, weights_dtype
from vitlit.evaluation.report import Report, RunBoard, Tested, metrics_prefix
from vitlit.files import expanded
from vitlit.model.features import AnyFeature
from vitlit.prediction.writer import PredictionWriter
from vitlit.tasks.task import Task
from vitlit.training.trainable import TrainableViT

# Variables that torchrun, Lightning and srun set for each of several processes.
LAUNCHER_VARIABLES = ("WORLD_SIZE", "LOCAL_RANK", "NODE_RANK")
# Options of the trainer that need no Lightning, and their values; None: any.
PLAIN_OPTIONS: dict[str, tuple[str, ...] | None] = {
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": ("auto", "1"),
    "trainer.precision": ("32", "64", "bf16", "32-true", "64-true", "bf16-true", "bf16-mixed"),
    "trainer.enable_progress_bar": ("true", "false"),
    "trainer.enable_model_summary": ("true", "false"),
    "trainer.logger": ("true", "false"),
    "trainer.default_root_dir": None,
}
LEFT_TO_LIGHTNING = {"-h", "--help", "--print_config", "--trainer", f"--{TRUST_OPTION}"}
LEFT_TO_LIGHTNING |= {"--verbose"}  # of its own validate and test


class Scored(NamedTuple):
    """Scores by name, such as test/acc, what these begin with, and the number of images."""

    metrics: dict[str, Tensor]
    prefix: str
    images: int


class Machine(Commands):
    """The device and the precision of a command.

    Args:
        accelerator: Kind of device: auto, cpu, gpu, cuda or mps.
        devices: Number of devices: auto or 1.
        precision: Lightning's name, such as 32-true or bf16-mixed.
        enable_progress_bar: Whether a terminal shows a bar.
        enable_model_summary: Has no effect here.
        logger: Whether test writes its scores into the run's curves, too.
        default_root_dir: The folder that holds lightning_logs.
    """

    is_global_zero = True

    def __init__(
        self,
        *,
        accelerator: str = "auto",
        devices: int | str = "auto",
        precision: str | int | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = None,
        logger: bool | None = None,
        default_root_dir: str | None = None,
    ) -> None:
        kind = device_type(accelerator)
        self.root_device = torch.device(kind) if kind == "cpu" else torch.device(kind, 0)
        self.precision = precision
        self.root = str(expanded(default_root_dir or "."))
        self.is_logging = logger is not False
        self.shows_bar = enable_progress_bar is not False and sys.stderr.isatty()

    def predict(
        self,
        model: TrainableViT,
        datamodule: PlainImageData,
        ckpt_path: str | None = None,
        *,
        writer: PredictionWriter,
        feature: AnyFeature | None = None,
        weights_only: bool | None = True,
    ) -> Path:
        """Give a writer the probabilities, or the feature, of all images; returns its file."""
        vit = model.vit
        compute = self._loaded(model, ckpt_path, lambda x: answer(vit, vit, feature, x, model.task))
        datamodule.setup("predict")
        try:
            with torch.inference_mode():
                for batch in self._batches(datamodule, "predict", "Predicting"):
                    writer.add(compute(batch.x), batch)
        except Stopped as stop:
            writer.stop(stop, datamodule.files)
            raise
        except Exception:
            writer.abandon()
            raise
        writer.finish(datamodule.files)
        return writer.path

    def test(
        self,
        model: TrainableViT,
        datamodule: PlainImageData,
        ckpt_path: str | None = None,
        *,
        report: Report,
        weights_only: bool | None = True,
    ) -> Scored:
        """Score the split and write a report on it."""
        prefix = metrics_prefix(datamodule.split, flip=report.flip)
        vit = model.vit

        def logits(x: Tensor) -> Tensor:
            return flip_average(vit, x, vit) if report.flip else vit(x)

        compute = self._loaded(model, ckpt_path, logits)
        datamodule.prepare_data()
        datamodule.setup("test")
        found = self._score(
            datamodule, model.task, datamodule.split, "Testing", compute, prefix, report.add
        )
        boards = [RunBoard(report.run)] if report.run is not None and self.is_logging else []
        for board in boards:
            board.log_metrics(found.metrics, report.step)
        about = (datamodule, compute, self.root_device, model.class_names)
        tested = Tested(*about, task=model.task)
        report.finish(tested, boards)
        for board in boards:
            board.experiment.close()
        return found

    def validate(
        self,
        model: TrainableViT,
        datamodule: PlainImageData,
        ckpt_path: str | None = None,
        *,
        weights_only: bool | None = True,
    ) -> Scored:
        """Score the validation split."""
        compute = self._loaded(model, ckpt_path, model.vit)
        datamodule.prepare_data()
        datamodule.setup("validate")
        return self._score(datamodule, model.task, "val", "Validating", compute, "val")

    def _loaded(self, model: TrainableViT, ckpt_path: str | None, compute: Compute) -> Compute:
        """``compute`` in this precision, once the model's weights are loaded and on the device."""
        fill_from_checkpoint(model, ckpt_path)
        model.vit.to(self.root_device, weights_dtype(self.precision)).eval()
        return in_precision(compute, self.precision, self.root_device.type)

    @torch.inference_mode()
    def _score(
        self,
        data: PlainImageData,
        task: Task,
        split: str,
        title: str,
        compute: Compute,
        prefix: str,
        take: Callable[[Tensor, Batch], None] = lambda logits, batch: None,
    ) -> Scored:
        """The scores of a split. prefix: of their names; take: gets the logits of each batch."""
        scores = task.scores(data.num_classes)
        for batch in self._batches(data, split, title):
            logits = compute(batch.x)
            scores.update(logits, task.without_fillers(batch.y, batch.valid))
            take(logits, batch)
        values = scores.compute()
        count = int(values.pop("count"))
        return Scored({f"{prefix}/{name}": value for name, value in values.items()}, prefix, count)

    def _batches(self, data: PlainImageData, split: str, title: str) -> Iterator[Batch]:
        """The batches of a split, prepared on the device as for evaluation."""
        loader = loader_of(data, data.splits[split])
        for batch in tqdm(loader, desc=title, leave=False, disable=not self.shows_bar):
            batch = data.transfer_batch_to_device(batch, self.root_device, 0)
            yield data.transform(batch, augment=False)


def is_quick(args: list[str]) -> bool:
    """Whether the words ask for nothing that only Lightning's Trainer has.

    Words that cannot be understood are left to the parser with all options, which says why.
    """
    if args[0] not in QUICK_COMMANDS or _is_one_of_many():
        return False
    if any(arg.partition("=")[0] in LEFT_TO_LIGHTNING for arg in args):
        return False
    try:
        places = origins(join_lists(name_checkpoints(args)))
    except InputError:
        return False
    given = {key: place for key, place in places.items() if key.startswith("trainer")}
    if any(not place.startswith("--") or key not in PLAIN_OPTIONS for key, place in given.items()):
        return False  # a config tells how to train
    values = {name: _last_value(args, name) for name in given}
    for name, value in values.items():
        known = PLAIN_OPTIONS[name]
        if known is not None and value.lower() not in known:
            return False
    return _is_there(values.get("trainer.accelerator", "auto"), values.get("trainer.devices"))


def _is_one_of_many() -> bool:
    """Whether this is one of several processes, or one of which Lightning may start several."""
    is_launched = any(name in os.environ for name in LAUNCHER_VARIABLES)
    return is_launched or os.environ.get("SLURM_NTASKS", "1") != "1"


def _is_there(accelerator: str, devices: str | None) -> bool:
    """Whether the device exists, and is the only one that would be used."""
    kind = device_type(accelerator)
    if kind == "cpu":
        return accelerator in ("auto", "cpu")
    return kind != "cuda" or devices == "1" or torch.cuda.device_count() == 1


def _last_value(args: list[str], name: str) -> str:
    found = ""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        option, equals, value = arg.partition("=")
        if option == f"--{name}":
            found = value if equals else following
    return found
