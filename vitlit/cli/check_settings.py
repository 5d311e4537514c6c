"""Settings that are wrong or contradict each other, refused before anything is built.

parsed settings of a command -> InputError, or nothing
"""

import inspect
import math
from typing import TYPE_CHECKING, Any

from vitlit.cli.from_weights import ASK_USER
from vitlit.cli.parser import LINKED
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError, check_below_one, did_you_mean, inform, warn
from vitlit.evaluation.precision import device_type
from vitlit.files import expanded
from vitlit.images.machine import memory_bytes
from vitlit.model.vit import ViT
from vitlit.tasks.task import Task
from vitlit.training.trainable import TrainableViT
from vitlit.weights.checkpoint import PRETRAINING_SETTING

if TYPE_CHECKING:  # commands that do not train need none of Lightning
    import pytorch_lightning as pl

# Lightning's callbacks that choose a setting after the optimiser, the batches and config.yaml are
# made: they announce a value, and the training goes on with another.
TUNERS = {
    "LearningRateFinder": ("learning rate", "--model.lr"),
    "BatchSizeFinder": ("batch size", "--data.batch_size"),
}
FLOAT_BYTES, GIGABYTE = 4, 1e9
MANY_PATCHES = 4096  # patches of an image, above which its attention is a matter of minutes


def check_first(settings: Any) -> None:
    """Refuse a seed, a root folder or a null that would fail later with an obscure error."""
    seed = settings["seed_everything"]
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed < 2**32:
        raise InputError(f"seed_everything {seed} is not in 0 to {2**32 - 1}; give another seed")
    # Only some commands have this option of Lightning's.
    if settings.get("weights_only") is False:
        raise InputError(
            "weights_only false would run code that a checkpoint may hold; leave it out"
        )
    if settings["model"]["pretrained"] == "":
        raise InputError(
            "model.pretrained '' names no weights; give a file, a folder or a name, or leave it out"
        )
    # Lightning would write to addresses through fsspec; locks, fsync and checksums need a folder.
    root = str(settings["trainer"]["default_root_dir"] or "")
    if "://" in root:
        raise InputError(f"trainer.default_root_dir {root} is a URL; give a local folder")
    for group, kinds in (("model", (TrainableViT, ViT)), ("data", (PlainImageData,))):
        for kind in kinds:
            _check_null(group, settings[group], kind)


def _check_null(group: str, values: Any, kind: type) -> None:
    """Refuse null, which the parser accepts for any type, except where it is the default."""
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


def _check_no_tuner(callbacks: Any) -> None:
    """Refuse callbacks that choose a setting too late. callbacks: one, a list of them, or None."""
    given = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    for callback in given:
        name = str(callback["class_path"]).rpartition(".")[2]
        if name in TUNERS:
            what, option = TUNERS[name]
            raise InputError(
                f"trainer.callbacks {name} would report a {what} that is neither used nor "
                f"saved; leave it out and set {option}"
            )


def check_trainer(trainer: Any, command: str) -> None:
    """Refuse trainer settings that Lightning would reject later, ignore, or train wrongly with."""
    from pytorch_lightning.strategies import StrategyRegistry  # other commands need no Lightning

    _check_no_tuner(trainer["callbacks"])
    _check_known_name(
        "strategy", trainer["strategy"], ["auto", *StrategyRegistry.available_strategies()]
    )
    limit = {"fit": "train", "validate": "val"}.get(command, command)  # limit_train_batches, …
    if command in ("fit", "validate", "test", "predict") and trainer[f"limit_{limit}_batches"] == 0:
        raise InputError(
            f"trainer.limit_{limit}_batches 0 leaves nothing to do; give a count or a share"
        )
    if trainer["devices"] in (0, "0"):
        raise InputError("trainer.devices 0 leaves none; give 1 or more, or auto")
    # Floats too: val_check_interval may be a share of an epoch.
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"):
        value = trainer[name]
        if isinstance(value, int | float) and value <= 0:
            raise InputError(f"trainer.{name} {value} is not positive; give 1 or more")
    for name in ("gradient_clip_val", "log_every_n_steps"):
        if (trainer[name] or 0) < 0:
            raise InputError(f"trainer.{name} {trainer[name]} is negative; give 0 or more")
    if trainer["barebones"]:
        raise InputError(
            "trainer.barebones disables callbacks that training needs; leave it out; to time bare "
            "steps, give --trainer.enable_checkpointing false --trainer.logger false"
        )
    # Lightning would put a sequential sampler in place of ours, which addresses all randomness.
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
    # Lightning would train for 1000 epochs and say so in passing.
    ends = ("max_epochs", "max_time", "fast_dev_run")
    if command == "fit" and trainer["max_steps"] == -1 and not any(trainer[name] for name in ends):
        raise InputError(
            "training would never end; give --trainer.max_epochs or --trainer.max_steps, "
            "or start from a shipped recipe: --config digits.yaml"
        )


def check_model_size(model: Any, *, trains_on_cpu: bool) -> None:
    """Refuse a model that this machine cannot hold: making it would take minutes, then fail.

    trains_on_cpu: gradients and Adam's two moments need as much memory again, each.
    """
    width, depth = model["embed_dim"], model["depth"]
    weights = max(0, depth) * width**2 * (4 + 2 * model["mlp_ratio"])
    needed, room = weights * FLOAT_BYTES * (4 if trains_on_cpu else 1), memory_bytes()
    if room is not None and needed > room:
        raise InputError(
            f"embed_dim {width} and depth {depth} make a model of {weights / 1e9:,.1f} billion "
            f"weights, which needs {needed / GIGABYTE:,.0f} GB, and this machine has "
            f"{room / GIGABYTE:.0f} GB of memory; give smaller ones",
            argument=("embed_dim", "depth"),
        )


def warn_of_many_patches(vit: ViT) -> None:
    """Warn if images are cut into so many patches that a step takes minutes."""
    rows, cols = vit.grid_size
    if rows * cols > MANY_PATCHES:
        height, width = vit.img_size
        warn(
            f"images of {height}x{width} pixels in patches of {vit.config['patch_size']} "
            f"make {rows * cols:,} tokens, and attention compares every two of them; give a "
            f"smaller --data.img_size (224 by default for a folder) or a larger --model.patch_size"
        )


def tell_global_batch(trainer: "pl.Trainer", images: int, global_batch: int) -> None:
    """Say how many images an update is of, if the recipe was made for others.

    images: of one batch; global_batch: of the recipe, 0 if unknown. The summary says it otherwise.
    """
    processes, accumulated = trainer.world_size, trainer.accumulate_grad_batches
    if global_batch not in (0, images * processes * accumulated):
        inform(global_batch_line(images, processes, accumulated, global_batch))


def global_batch_line(images: int, processes: int, accumulated: int, made_for: int) -> str:
    """How many images an update is of and, if a recipe was made for others, what to do.

    images: in a batch of one process; made_for: as ``recipe.global_batch``, 0 if unknown.
    """
    batches = processes * accumulated
    line = f"global batch {images * batches:,}"
    if batches > 1:
        counted = [f"{processes} processes"] if processes > 1 else []
        counted += [f"{accumulated} accumulated batches"] if accumulated > 1 else []
        line += f": {' of '.join([*counted, f'{images:,} images'])}"
    if made_for in (0, images * batches):
        return line
    fitting, rest = divmod(made_for, batches)
    way = "" if rest else f"--data.batch_size {fitting} for the same, or "
    return (
        f"{line}; the recipe was made for {made_for:,}: give {way}a --model.lr that suits this one"
    )


def check_model(model: Any, trainer: Any, command: str) -> None:
    """Refuse a model that the memory cannot hold, before it is built."""
    is_on_cpu = device_type(str(trainer["accelerator"])) == "cpu"
    check_model_size(model, trains_on_cpu=is_on_cpu and command == "fit")


def check_pretraining(data: Any) -> None:
    """Refuse mixtures of images, which are made for their labels."""
    for name in ("mixup", "cutmix"):
        if data[name]:
            raise InputError(
                f"data.{name} {data[name]} mixes images and their labels, which pretrain does not "
                f"read; leave it out"
            )


def check_unused(settings: Any) -> None:
    """Refuse wrong settings of a training even in a command that trains nothing."""
    check_early_stopping(**settings["early_stopping"])
    check_checkpoints(**settings["checkpoints"])
    _check_not_negative("recipe", **settings["recipe"])
    check_below_one(**{"ema.decay": settings["ema"]["decay"]})
    monitor = settings["checkpoints"]["monitor"]
    if PRETRAINING_SETTING in settings["model"] and monitor != "val/loss":
        raise InputError(
            f"checkpoints.monitor {monitor} needs labels, which pretrain does not read; leave it "
            f"out"
        )


def settle_monitor(settings: Any, task: Task) -> None:
    """Fill in the score that chooses the best epoch; refuse one that the task does not have."""
    known, asked = [f"val/{name}" for name in task.monitors], settings["checkpoints"]["monitor"]
    if asked is not None and asked not in known:
        raise InputError(
            f"checkpoints.monitor {asked} is no score of the task {task.name}; give "
            f"{', '.join(known)}, or leave it out"
        )
    settings["checkpoints"]["monitor"] = asked or known[0]


def check_checkpoints(every_n_steps: int, every_minutes: float, monitor: str | None) -> None:
    """Refuse negative intervals. monitor: one of few names, which the parser has checked."""
    _check_not_negative("checkpoints", every_n_steps=every_n_steps, every_minutes=every_minutes)


def check_early_stopping(patience: int, min_delta: float) -> None:
    """Refuse negative settings of early stopping."""
    _check_not_negative("early_stopping", patience=patience, min_delta=min_delta)


def _check_not_negative(group: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{group}.{name} {value} is not valid; give 0 or more")


def check_weights_are_given(model: Any) -> None:
    """Refuse to train a fine-tuning recipe from scratch, which nobody would notice."""
    if model["pretrained"] == ASK_USER:
        raise InputError(
            "this recipe fine-tunes weights that you choose; give --model.pretrained a file, a "
            "model's or a run's folder or a name on the Hugging Face hub"
        )
    for name in ("freeze_blocks", "lora_rank"):
        if model.get(name) and not model["pretrained"]:
            raise InputError(
                f"model.{name} {model[name]} would freeze untrained weights; give "
                f"--model.pretrained, or leave it out"
            )


def check_own_folder(data: Any) -> None:
    """Refuse another data set beside a data_dir with someone's own images: these would be unread.

    data: settings whose data_dir is such a folder.
    """
    if data["dataset"] != "folder":
        raise InputError(
            f"data.data_dir {data['data_dir']} holds folders of images, which data.dataset "
            f"{data['dataset']} does not read; give --data.dataset folder to use them, or leave "
            f"out --data.data_dir"
        )


def check_place(settings: Any, command: str) -> None:
    """Refuse to read images from the default data_dir: it holds the downloads of this package."""
    data = settings["data"]
    # Compared as absolute paths, so that the default written out or as ~ counts as the default too.
    default = inspect.signature(PlainImageData).parameters["data_dir"].default
    places = {expanded(place).absolute() for place in (default, data["data_dir"])}
    if data["dataset"] != "folder" or len(places) > 1 or data["images"]:
        return
    if command == "explain":
        raise InputError(
            "explain was given no images; give --data.images files or folders, or "
            "--data.data_dir a folder with one folder for each class"
        )
    if command not in ("predict", "export"):
        what = "" if command == "pretrain" else " with one folder for each class"
        raise InputError(
            f"{command} was given no folder of images; give --data.data_dir a folder{what}, or "
            f"--data.dataset another data set"
        )
