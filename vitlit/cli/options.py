"""Options of the command line besides those of model, data and trainer.

parser of one command -> the same with more options
"""

import inspect
from typing import Any, Literal

from jsonargparse import ArgumentParser

from vitlit.augment.pipeline import Augmentation
from vitlit.cli.advice import TRUST_OPTION
from vitlit.cli.parser import LINKED
from vitlit.cli.parser_internals import options_of
from vitlit.data.datamodule import PlainImageData
from vitlit.model.features import FeaturePool
from vitlit.model.vit import ViT
from vitlit.pretraining.maskable import MaskableViT
from vitlit.training.trainable import TrainableViT
from vitlit.weights.checkpoint import Monitor

TIMEOUT_SECONDS = 300.0  # for which processes wait for each other
MEANINGS = {  # help of Lightning's options that mean something else here, or need fewer words
    "ckpt_path": "A .ckpt file; a run folder, for its best checkpoint (in fit, its last); or best "
    "or last, for a checkpoint of the run --run, or else of the newest run in ./lightning_logs "
    "(debug runs count only if there are no others).",
    "weights_only": "Always true: code in a checkpoint is never executed.",
    "trainer.accelerator": "Where to compute: cpu, gpu, mps or tpu; auto chooses a GPU if there is "
    "one.",
    "trainer.max_epochs": "Number of epochs to train.",
    "trainer.precision": "Number format: 32-true, bf16-mixed, 16-mixed or 64-true; by default the "
    "one that suits the device and the checkpoint.",
}
# The first group that has an argument of a name gets it, so the order counts.
OWNERS: dict[str, tuple[type, ...]] = {  # group of options -> classes
    "model": (TrainableViT, ViT, MaskableViT),
    "data": (PlainImageData, Augmentation),
}
# Those of pl.Trainer that messages name; its signature would take seconds to import.
TRAINER_ARGUMENTS = (
    "gradient_clip_val",
    "default_root_dir",
    "max_epochs",
    "max_steps",
    "accumulate_grad_batches",
    "limit_train_batches",
    "devices",
    "num_nodes",
)
CALLBACKS = {  # group of options, as added below -> those that are arguments of callbacks
    "checkpoints": ("every_n_steps", "every_minutes"),
    "pictures": ("every_n_epochs",),
    "nonfinite": ("skip",),
}


def option_of(argument: str) -> str:
    """The option for an argument of the library: ``--model.patch_size`` for ``patch_size``.

    An argument that belongs to no group, such as ``out``, is one of a command; a dotted argument
    names its group itself.
    """
    for group, kinds in OWNERS.items():
        if any(argument in inspect.signature(kind).parameters for kind in kinds):
            name = f"{group}.{argument}"
            # A linked argument cannot be set; the user has to set what it follows from.
            return f"--{LINKED.get(name, name)}"
    if argument in TRAINER_ARGUMENTS:
        return f"--trainer.{argument}"
    groups = [group for group, names in CALLBACKS.items() if argument in names]
    return f"--{'.'.join([*groups, argument])}"


def describe_options(parser: ArgumentParser) -> None:
    """Replace the help of the options of Lightning that are in ``MEANINGS``."""
    for action in options_of(parser):
        if action.dest in MEANINGS:
            action.help = MEANINGS[action.dest]


def add_seed(parser: ArgumentParser) -> None:
    """Add the seed. Lightning also takes a bool; an int alone can be linked to data.seed."""
    parser.add_argument(
        "--seed_everything",
        type=int,
        default=0,
        help="Seed of the weights, the order of the images, augmentation and dropout.",
    )


def add_options(parser: ArgumentParser, command: str = "fit") -> None:
    """Add the options that every command has, so that one config serves all of them."""
    _add_training(parser)
    _add_run(parser)
    if command == "pretrain":  # there is no accuracy
        parser.set_defaults({"checkpoints.monitor": "val/loss", "pictures.every_n_epochs": 10})


def _add_training(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--recipe.global_batch",
        type=int,
        default=0,
        help="Images per optimiser step (data.batch_size times processes times "
        "trainer.accumulate_grad_batches) for which the learning rate of a recipe was chosen. fit "
        "prints a hint if it trains with another number; 0 means that none is stated.",
    )
    parser.add_argument(
        "--early_stopping.patience",
        type=int,
        default=0,
        help="Stop after this many validations without a better score (the one of "
        "checkpoints.monitor); 0 never stops.",
    )
    parser.add_argument(
        "--early_stopping.min_delta",
        type=float,
        default=0.0,
        help="Smallest improvement of that score that counts.",
    )
    parser.add_argument(
        "--ema.decay",
        type=float,
        default=0.0,
        help="Decay of an exponential moving average of the weights, such as 0.9998. The average "
        "is validated and saved. 0 keeps no average.",
    )
    parser.add_argument(
        "--pictures.every_n_epochs",
        type=int,
        default=0,
        help="Epochs between pictures in TensorBoard, of attention or, in pretrain, of "
        "reconstructions; 0 draws none.",
    )


def _add_run(parser: ArgumentParser) -> None:
    parser.add_argument(
        f"--{TRUST_OPTION}",
        type=str | None,
        default=None,
        help="Other packages, separated by commas, whose classes a config may name, such as your "
        "own callbacks. Their code is executed. Only on the command line.",
    )
    parser.add_argument(
        "--run",
        type=str | None,
        default=None,
        help="Name of the run: its folder in lightning_logs. In fit, the default is the SLURM job, "
        "or else the date and time, and the same command resumes a run that is not finished.",
    )
    _add_series(parser)
    _add_saving(parser)


def _add_series(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--folds",
        type=int | None,
        default=None,
        help="Divide the images into this many folds, train as many models, each without one fold, "
        "and test it on that: every image is tested once. The same command with --run goes on.",
    )
    parser.add_argument(
        "--repeats",
        type=int | None,
        default=None,
        help="Train and test this many models, with split_seed and seed_everything counted up.",
    )


def _add_saving(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints.every_n_steps",
        type=int,
        default=0,
        help="Optimiser steps between two saves of last.ckpt; 0 saves it by every_minutes alone.",
    )
    parser.add_argument(
        "--checkpoints.every_minutes",
        type=float,
        default=1.0,
        help="Minutes between two saves of last.ckpt, besides the one at the end; longer if saving "
        "would take over a twentieth of the time. 0 saves after each validation and epoch instead.",
    )
    parser.add_argument(
        "--checkpoints.monitor",
        type=Monitor | None,  # the Literal, so that the parser lists the choices
        default=None,
        help="The score by which best.ckpt is chosen and which early stopping watches: by default "
        "val/acc, val/map for several classes an image, or val/mae for numbers. val/balanced_acc "
        "weights all classes equally, however few images they have.",
    )
    parser.add_argument(
        "--nonfinite.skip",
        type=int,
        default=0,
        help="How many updates may be skipped because the loss or a gradient is not finite, before "
        "training stops.",
    )
    parser.add_argument(
        "--timeout_seconds",
        type=float,
        default=TIMEOUT_SECONDS,
        help="Seconds that training processes wait for each other before one counts as lost.",
    )


def add_predict_options(parser: Any) -> None:
    """Add the options of ``predict`` that Lightning's does not have."""
    parser.add_argument(
        "--output",
        type=Literal["probabilities", "json", "features", "patches"],
        default="probabilities",
        help="probabilities are written to a CSV file; json to JSON Lines, an object for each "
        "image; features to an .npz file with the arrays features (n, D) and files (n); patches, "
        "the tokens of all patches, to an .npy file (n, N, D) that can be mapped into memory, with "
        "a CSV table of its rows beside it.",
    )
    parser.add_argument(
        "--top_k", type=int, default=5, help="Number of classes to list, the most probable first."
    )
    parser.add_argument(
        "--abstain_below",
        type=float,
        default=0.0,
        help="Give no class if the most probable one is below this probability. The report of test "
        "shows, for each threshold, the accuracy and the share of images that keep a class.",
    )
    parser.add_argument(
        "--layer",
        type=int | None,
        default=None,
        help="Block whose features are written, counted from 0, or from the end: -1, -2, …; the "
        "model's final norm is applied only after the last block.",
    )
    parser.add_argument(
        "--pool",
        type=FeaturePool | None,
        default=None,
        help="Features of the class token, or the mean of the patches; by default as the model "
        "pools, or the mean if it pools by weights and an earlier block is asked for.",
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="File to write; it must not exist."
    )


def add_test_options(parser: Any) -> None:
    """Add the options of ``test`` that Lightning's does not have."""
    parser.add_argument(
        "--flip",
        type=bool,
        default=False,
        help="Test-time augmentation: average the logits of each image and its mirror image; all "
        "scores are then marked +flip.",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder of the report, which must not exist; by default test_report in the run.",
    )
