"""Settings that contradict each other or the checkpoint, refused before anything is built."""

import inspect
import math
from pathlib import Path
from typing import Any

from pytorch_lightning.strategies import StrategyRegistry
from pytorch_lightning.utilities import rank_zero_warn

from vitlit.cli.parser import LINKED, did_you_mean
from vitlit.data.datamodule import ImageData
from vitlit.errors import InputError
from vitlit.model.vit import ViT
from vitlit.training.classifier import Classifier
from vitlit.weights.file_reader import quoted_few
from vitlit.weights.pretrained import Weights, class_names_of

# of weights
FIXED_BY_WEIGHTS = ("embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values")
HEADLESS_COMMANDS = (
    "probe",
    "explain",
    "export",
)  # commands that weights without a head will do for
GROUP_SETTINGS = (
    "freeze_blocks",
    "layer_decay",
    "decay",
)  # what the optimiser's groups follow from
MANY_PATCHES = 4096  # patches of an image
RATE_SUFFIX = "_rate"  # dropout and stochastic depth may differ from the checkpoint's


def check_against_checkpoint(model: Any, saved: dict[str, Any], path: Path, command: str) -> None:
    """Weights fit one architecture, and the state of an optimiser that optimiser.

    model: the settings asked for; saved: those of the checkpoint.
    """
    names = [name for name in inspect.signature(ViT).parameters if not name.endswith(RATE_SUFFIX)]
    if command == "fit":
        names.append("optimizer")
        _check_groups(model, saved, path)
    for name in names:
        if name in model and name in saved and model[name] != saved[name]:
            raise InputError(
                f"model.{name} {model[name]} contradicts {path}, which has {saved[name]}; "
                f"leave out --model.{name}"
            )


def _check_groups(model: Any, saved: dict[str, Any], path: Path) -> None:
    """The optimiser's state is kept by groups of parameters, which these settings make."""
    for name in GROUP_SETTINGS:
        if name in saved and model[name] != saved[name]:
            raise InputError(
                f"model.{name} {model[name]} contradicts {path}, whose training goes on only with "
                f"its own, {saved[name]}; leave out --model.{name}, or start a new training from "
                f"its weights: --model.pretrained {path} in place of --ckpt_path"
            )


def check_against_weights(
    settings: Any, weights: Weights, where: dict[str, str], command: str
) -> None:
    """Weights can be made to fit other sizes and classes, but not another width or depth.

    settings: all of the command; where: the place that sets each of them, see :mod:`origins`.
    """
    model, arguments, source = settings["model"], weights.arguments, settings["model"]["pretrained"]
    for name in FIXED_BY_WEIGHTS:
        value, has = model[name], arguments[name]
        if value == has:
            continue
        place = where.get(f"model.{name}", "--")
        way, of = f"leave out --model.{name}", ""
        if not place.startswith("--"):
            way, of = f"leave it out there, or give --model.{name} {has}", f" of {place}"
        raise InputError(f"model.{name} {value}{of} contradicts {source}, which has {has}; {way}")
    is_answering = command not in ("fit", "probe") and settings.get("output") != "features"
    is_head_used = is_answering and arguments["num_classes"] > 0
    names, theirs = settings["data"]["class_names"] or [], class_names_of(weights)
    is_other = weights.class_names is not None and sorted(names) != sorted(theirs)
    if is_head_used and (is_other or len(names) != len(theirs)):
        raise InputError(
            f"data.class_names ({quoted_few(names)}) are not the {len(theirs)} classes of {source} "
            f"({quoted_few(theirs)}); leave them out, or fine-tune the weights with `vitlit fit`"
        )


def starting_points(
    weights: Weights, wanted: Any, command: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Defaults of model and data that follow from weights to start from, or to use as they are.

    wanted: settings of the command as they would be without the weights. In ``fit`` the data
    decide classes and channels, elsewhere the weights do.
    """
    arguments = weights.arguments
    data: dict[str, Any] = {"img_size": arguments["img_size"]}
    if weights.invert:
        data["invert"] = True
    if weights.mean is not None and (weights.invert or not wanted["data"]["invert"]):
        data |= {"mean": list(weights.mean), "std": list(weights.std or ())}
    if command == "fit":
        return arguments, data
    if command == "probe" and not wanted["data"]["images"]:
        return arguments, data | {"in_chans": arguments["in_chans"]}
    if arguments["num_classes"]:
        names = class_names_of(weights)
    elif command == "explain" and not wanted["data"]["images"]:
        return arguments, data | {"dataset": "folder", "in_chans": arguments["in_chans"]}
    elif command in HEADLESS_COMMANDS or wanted.get("output") == "features":
        names = ["0", "1"]  # of a head that nobody will ask
    else:
        source = wanted["model"]["pretrained"]
        raise InputError(
            f"{source} has no head, so it names no classes; fine-tune it with "
            f"`vitlit fit --config finetune.yaml --model.pretrained {source}`, or use "
            f"{', '.join(HEADLESS_COMMANDS)} or predict --output features, which need none"
        )
    data |= {"dataset": "folder", "class_names": names, "in_chans": arguments["in_chans"]}
    return arguments, data


def data_of_checkpoint(data: dict[str, Any], wanted: Any, command: str) -> dict[str, Any]:
    """Defaults from a checkpoint's data; ``probe`` finds the classes of whatever data it is given.

    wanted: settings of the command as they would be without the checkpoint.
    """
    if command == "probe" and not wanted["data"]["images"]:
        return {name: value for name, value in data.items() if name != "class_names"}
    return data


def check_average(ema: Any, content: dict[str, Any], path: Path) -> None:
    """A training with an average of its weights goes on with one, and one without without."""
    if "averaging_state" in content and not ema["decay"]:
        raise InputError(
            f"{path} was trained with a moving average of its weights; give --ema.decay again"
        )
    if "averaging_state" not in content and ema["decay"]:
        raise InputError(
            f"{path} was trained without a moving average of its weights; leave out --ema.decay"
        )


def check_first(settings: Any) -> None:
    """Refuse what would go wrong before anything is built."""
    seed = settings["seed_everything"]
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed < 2**32:
        raise InputError(f"seed_everything {seed} is not in 0 to {2**32 - 1}; give another seed")
    if settings.get("weights_only") is False:
        raise InputError(
            "weights_only false would run code that a checkpoint may hold; leave it out"
        )
    root = str(settings["trainer"]["default_root_dir"] or "")
    if "://" in root:
        raise InputError(f"trainer.default_root_dir {root} is an address; give a folder here")
    for group, kinds in (("model", (Classifier, ViT)), ("data", (ImageData,))):
        for kind in kinds:
            _check_null(group, settings[group], kind)


def _check_null(group: str, values: Any, kind: type) -> None:
    """The parser takes null for any type; only where it is the default does it mean something."""
    for name, parameter in inspect.signature(kind).parameters.items():
        is_null = name in values and values[name] is None
        if is_null and parameter.default is not None and f"{group}.{name}" not in LINKED:
            raise InputError(f"{group}.{name} null is not valid; leave it out, or give a value")


def _check_known_name(option: str, value: Any, known: list[str]) -> None:
    if isinstance(value, str) and value not in known:
        raise InputError(
            f"trainer.{option} {value} is not known{did_you_mean(value, known)}; the names are "
            f"{', '.join(known)}"
        )


def check_trainer(trainer: Any, command: str) -> None:
    """Refuse what Lightning would stumble over later."""
    _check_known_name(
        "strategy", trainer["strategy"], ["auto", *StrategyRegistry.available_strategies()]
    )
    limit = {"fit": "train", "validate": "val"}.get(command, command)
    if command in ("fit", "validate", "test", "predict") and trainer[f"limit_{limit}_batches"] == 0:
        raise InputError(
            f"trainer.limit_{limit}_batches 0 leaves nothing to do; give a count or a share"
        )
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"):
        value = trainer[name]
        if isinstance(value, int | float) and value <= 0:
            raise InputError(f"trainer.{name} {value} is not positive; give 1 or more")
    for name in ("gradient_clip_val", "log_every_n_steps"):
        if (trainer[name] or 0) < 0:
            raise InputError(f"trainer.{name} {trainer[name]} is negative; give 0 or more")
    if trainer["barebones"]:
        raise InputError(
            "trainer.barebones leaves out what a training here needs; leave it out too, and time "
            "steps with --trainer.enable_checkpointing false --trainer.logger false"
        )
    if trainer["overfit_batches"]:
        raise InputError(
            "trainer.overfit_batches would replace the order of the data; "
            "give --trainer.limit_train_batches instead"
        )
    if command == "fit" and trainer["precision"] == "16-true":
        raise InputError(
            "trainer.precision 16-true loses small gradients, since nothing scales them; "
            "give 16-mixed, bf16-mixed or 32-true"
        )
    for name in ("max_epochs", "max_steps"):
        if command == "fit" and trainer[name] == 0:
            raise InputError(f"trainer.{name} 0 trains nothing; give 1 or more")
    ends = ("max_epochs", "max_time", "fast_dev_run")
    if command == "fit" and trainer["max_steps"] == -1 and not any(trainer[name] for name in ends):
        raise InputError(
            "training has no end; give --trainer.max_epochs or --trainer.max_steps, "
            "or start from a shipped recipe: --config digits.yaml"
        )


def warn_of_many_patches(vit: ViT) -> None:
    """Say where images are cut so finely that a step takes minutes, before one does."""
    rows, cols = vit.grid_size
    if rows * cols > MANY_PATCHES:
        height, width = vit.img_size
        rank_zero_warn(
            f"images of {height}x{width} pixels in patches of {vit.config['patch_size']} are "
            f"{rows * cols:,} tokens, and each is compared with each; give a smaller "
            f"--data.img_size (224 by default for a folder) or a larger --model.patch_size"
        )


def check_checkpoints(every_n_steps: int, every_minutes: float, monitor: str) -> None:
    """monitor: one of few names, which the parser has checked."""
    _check_not_negative("checkpoints", every_n_steps=every_n_steps, every_minutes=every_minutes)


def check_early_stopping(patience: int, min_delta: float) -> None:
    _check_not_negative("early_stopping", patience=patience, min_delta=min_delta)


def _check_not_negative(group: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{group}.{name} {value} is not valid; give 0 or more")
