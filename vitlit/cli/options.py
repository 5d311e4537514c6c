"""Options of the command line besides those of model, data and trainer.

parser of one command -> the same with more options
"""

import inspect
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningArgumentParser

from vitlit.augment.pipeline import Augmentation
from vitlit.cli.parser import LINKED, TRUST_OPTION
from vitlit.cli.parser_internals import options_of
from vitlit.data.datamodule import ImageData
from vitlit.model.features import FeaturePool
from vitlit.model.vit import ViT
from vitlit.training.checkpoint_callbacks import Monitor
from vitlit.training.classifier import Classifier

TIMEOUT_SECONDS = 300.0  # seconds
MEANINGS = {  # of Lightning's options, where they mean something else here
    "ckpt_path": "A .ckpt file; a run folder: its best checkpoint, in fit its last; or best or "
    "last: of the run in --run, else of the newest run in ./lightning_logs.",
    "weights_only": "Always true: code in a checkpoint is never run.",
}
OWNERS: dict[str, tuple[type, ...]] = {  # a group of options -> what takes them as arguments
    "model": (Classifier, ViT),
    "data": (ImageData, Augmentation),
    "trainer": (pl.Trainer,),
}
CALLBACKS = {  # a group of options, as added below -> those that are arguments of callbacks
    "checkpoints": ("every_n_steps", "every_minutes"),
    "pictures": ("every_n_epochs",),
    "nonfinite": ("skip",),
}


def option_of(argument: str) -> str:
    """The option for an argument of the library: ``--model.patch_size`` for ``patch_size``.

    An argument that no group has is one of a command, such as ``out``; a dotted one says itself
    whose it is.
    """
    for group, kinds in OWNERS.items():
        if any(argument in inspect.signature(kind).parameters for kind in kinds):
            name = f"{group}.{argument}"
            return f"--{LINKED.get(name, name)}"
    groups = [group for group, names in CALLBACKS.items() if argument in names]
    return f"--{'.'.join([*groups, argument])}"


def describe_options(parser: LightningArgumentParser) -> None:
    """Say what Lightning's options mean here."""
    for action in options_of(parser):
        if action.dest in MEANINGS:
            action.help = MEANINGS[action.dest]


def add_options(parser: LightningArgumentParser) -> None:
    """What every command has."""
    _add_training(parser)
    _add_run(parser)


def _add_training(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--early_stopping.patience",
        type=int,
        default=0,
        help="Stop after this many validations without a better score, that of "
        "checkpoints.monitor; 0 never stops.",
    )
    parser.add_argument(
        "--early_stopping.min_delta",
        type=float,
        default=0.0,
        help="Smallest gain in that score that counts as better.",
    )
    parser.add_argument(
        "--ema.decay",
        type=float,
        default=0.0,
        help="Share of the moving average of the weights that each step keeps, such as 0.9998; "
        "the average is what is validated and saved. 0 averages nothing.",
    )
    parser.add_argument(
        "--pictures.every_n_epochs",
        type=int,
        default=0,
        help="Epochs between pictures of attention in TensorBoard; 0 draws none.",
    )


def _add_run(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        f"--{TRUST_OPTION}",
        type=str | None,
        default=None,
        help="Other packages, joined by commas, whose classes a config may name, such as callbacks "
        "of yours: their code is then run. Only on the command line.",
    )
    parser.add_argument(
        "--run",
        type=str | None,
        default=None,
        help="Name of the run, its folder below lightning_logs. For fit by default the SLURM job, "
        "else date and time; the same command goes on with a run that is not finished.",
    )
    parser.add_argument(
        "--checkpoints.every_n_steps",
        type=int,
        default=0,
        help="Optimiser steps between two writings of last.ckpt; 0 writes it after validation.",
    )
    parser.add_argument(
        "--checkpoints.every_minutes",
        type=float,
        default=0.0,
        help="Minutes between two writings of last.ckpt; 0 writes it after validation.",
    )
    parser.add_argument(
        "--checkpoints.monitor",
        type=Monitor,
        default="val/acc",
        help="The score that best.ckpt is chosen by, and that early stopping watches; "
        "val/balanced_acc counts all classes alike, however few images they have.",
    )
    parser.add_argument(
        "--nonfinite.skip",
        type=int,
        default=0,
        help="Updates left out because the loss or a gradient is not finite, before training "
        "stops.",
    )
    parser.add_argument(
        "--timeout_seconds",
        type=float,
        default=TIMEOUT_SECONDS,
        help="How long processes that train wait for each other before one counts as lost.",
    )


def add_predict_options(parser: Any) -> None:
    """Options of ``predict`` that Lightning's has not."""
    parser.add_argument(
        "--output",
        type=Literal["probabilities", "features"],
        default="probabilities",
        help="probabilities go to a CSV file, features to an .npz file: features (n, D), files.",
    )
    parser.add_argument(
        "--layer",
        type=int | None,
        default=None,
        help="Block whose features are written, counted from 0, or from the last: -1, -2, …; the "
        "model's last norm is applied after the last block alone.",
    )
    parser.add_argument(
        "--pool",
        type=FeaturePool | None,
        default=None,
        help="Features of the class token, or the average of the patches; the model's own way by "
        "default.",
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="File to write, not existing yet."
    )


def add_test_options(parser: Any) -> None:
    """Options of ``test`` that Lightning's has not."""
    parser.add_argument(
        "--flip",
        type=bool,
        default=False,
        help="Average the logits of each image and its mirror image; all scores then say +flip.",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder of the report, not existing yet; test_report in the run by default.",
    )
