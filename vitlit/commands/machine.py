"""Where a command computes if it needs no Lightning: one device, in one process.

words -> whether they ask for more; settings of the trainer -> device, precision
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from vitlit.cli.from_weights import origins
from vitlit.cli.overview import QUICK_COMMANDS
from vitlit.cli.parser import TRUST_OPTION, join_lists, name_checkpoints
from vitlit.commands.own_commands import Commands, load_weights
from vitlit.data.batch import Batch
from vitlit.data.datamodule import ImageData
from vitlit.errors import InputError, Stopped
from vitlit.evaluation.inference import loader_of
from vitlit.evaluation.precision import device_type, in_precision, weights_dtype
from vitlit.evaluation.prediction_writer import PredictionWriter, answer
from vitlit.model.features import Feature
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
LEFT_TO_LIGHTNING = ("-h", "--help", "--print_config", "--trainer", f"--{TRUST_OPTION}")


class Machine(Commands):
    """The device and the precision of a command.

    Args:
        accelerator: Kind of device: auto, cpu, gpu, cuda or mps.
        devices: Number of devices: auto or 1.
        precision: Lightning's name, such as 32-true or bf16-mixed.
        enable_progress_bar: Whether a terminal shows a bar.
        enable_model_summary: Has no effect here.
        logger: Has no effect here.
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
        self.root = default_root_dir or "."
        self.shows_bar = enable_progress_bar is not False and sys.stderr.isatty()

    def predict(
        self,
        model: TrainableViT,
        datamodule: ImageData,
        ckpt_path: str | None = None,
        *,
        writer: PredictionWriter,
        feature: Feature | None = None,
        weights_only: bool | None = True,
    ) -> Path:
        """Give a writer the probabilities, or the feature, of all images; returns its file."""
        load_weights(model, ckpt_path)
        vit = model.vit.to(self.root_device, weights_dtype(self.precision)).eval()
        kind = self.root_device.type
        compute = in_precision(lambda x: answer(vit, vit, feature, x), self.precision, kind)
        datamodule.setup("predict")
        try:
            with torch.inference_mode():
                for batch in self._batches(datamodule):
                    batch = datamodule.transfer_batch_to_device(batch, self.root_device, 0)
                    batch = datamodule.transform(batch, augment=False)
                    writer.add(compute(batch.x), batch)
        except Stopped as stop:
            writer.stop(stop, datamodule.files)
            raise
        writer.finish(datamodule.files)
        return writer.path

    def _batches(self, data: ImageData) -> Iterator[Batch]:
        loader = loader_of(data, data.splits["predict"])
        yield from tqdm(loader, desc="Predicting", leave=False, disable=not self.shows_bar)


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
