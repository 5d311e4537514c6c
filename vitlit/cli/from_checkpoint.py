"""A command that starts from a checkpoint: its settings become defaults, others must agree.

settings without it -> defaults that follow from it -> settings, checked against it
"""

import inspect
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitlit.cli.can_go_on import check_average, check_can_go_on
from vitlit.cli.from_weights import by_dotted_name, weights_asked_for
from vitlit.cli.seen_images import tell_seen
from vitlit.data.csv_labels import task_of
from vitlit.data.datamodule import PlainImageData
from vitlit.data.leakage import (
    PastTraining,
    differing_setting,
    may_have_shifted,
    with_split_rule,
)
from vitlit.data.shards.places import is_url
from vitlit.data.split_record import record_of
from vitlit.errors import InputError, inform, warn
from vitlit.files import expanded
from vitlit.model.vit import ViT
from vitlit.tasks.known import DEFAULT_TASK
from vitlit.training.trainable import TrainableViT
from vitlit.weights import checkpoint
from vitlit.weights.checkpoint import (
    DATA_KEY,
    MODEL_KEY,
    PRETRAINING_SETTING,
    is_plain_value,
    training_settings_of,
)


class FromCheckpoint:
    """A checkpoint to start from, whose settings are the defaults of the command.

    first: settings of the command, parsed without it; where: the place that sets each setting, as
    :func:`origins` finds it. words: options to add to the command line.
    """

    words: tuple[str, ...] = ()
    note = ""  # about scored images that the model may have been trained on

    def __init__(self, path: Path, first: Any, command: str, where: Mapping[str, str]) -> None:
        self.path, self.first, self.command, self.where = path, first, command, where
        self.content = checkpoint.read_checkpoint(path)
        data = {"task": DEFAULT_TASK, **self.content[DATA_KEY]}  # versions before tasks had one
        self.content[DATA_KEY] = with_split_rule(data)
        self.past = PastTraining(self.content[DATA_KEY], record_of(self.content))
        self.model = self.content[checkpoint.MODEL_KEY]
        self.thresholds = self.model.get("thresholds")
        check_kind(self.model, first["model"], path)
        check_one_model(weights_asked_for(first["model"]), self.model, path, command)
        self.kept = training_settings_of(self.content) if command == "fit" else {}
        self.precision = checkpoint.trained_precision(self.content)
        steps = self.content.get("global_step")
        self.steps = steps if isinstance(steps, int) else 0

    def defaults(self) -> dict[str, Any]:
        """Default values by dotted name."""
        saved = self.content[DATA_KEY]
        data = data_of_checkpoint(saved, self.first, self.command, self.where)
        model = self.model
        if "task" not in data:  # what was learned of another task
            model = {name: value for name, value in model.items() if name not in TASK_SETTINGS}
        return {**by_dotted_name(self.first, model=model, data=data), **self.kept}

    def check(self, settings: Any, run: Path | None) -> None:
        """Refuse settings that contradict it, and log which ones come from it.

        run: folder of the named run, or None.
        """
        check_task(settings["data"], self.content[DATA_KEY], self.path, self.command)
        check_checkpoint(settings, self.model, self.path, self.command)
        if self.command != "fit":
            self.note = tell_seen(self.past, settings["data"], self.command, self.path)
            return
        check_held_out(self.past, settings["data"], self.path)
        check_can_go_on(self.content, settings, run, self.path)
        check_average(settings["ema"], self.content, self.path)
        tell_saved(self.kept, self.first, settings, self.path)
        tell_changed(self.content, settings, self.path)

    def fill(self, model: TrainableViT, data: PlainImageData) -> None:
        """Hold the data to what the checkpoint held out; the trainer loads the weights itself."""
        data.hold_to(self.past)


def check_kind(saved: dict[str, Any], model: Any, path: Path) -> None:
    """Refuse a pretraining where labels are needed, and the reverse.

    saved: settings of the checkpoint's model; model: those of the command's.
    """
    has, wants = PRETRAINING_SETTING in saved, PRETRAINING_SETTING in model
    if has == wants:
        return
    if has:
        raise InputError(
            f"{path} comes from pretraining and has no classes; learn them with `vitlit fit "
            f"--model.pretrained {shlex.quote(str(path))}`, or measure its features with `vitlit "
            f"probe` and the same option"
        )
    raise InputError(
        f"{path} comes from a training with labels, which pretrain cannot resume; give "
        f"--model.pretrained {path} to start from its weights"
    )


# of the model: what a training of one task learned or was told, and other tasks do not have
TASK_SETTINGS = (
    "loss", "target_mean", "target_std", "thresholds", "class_weights", "label_smoothing",
    "teacher", "teacher_weight", "teacher_temperature",
)  # fmt: skip


def check_task(data: Any, saved: dict[str, Any], path: Path, command: str) -> None:
    """Refuse another kind of label than the checkpoint's, but for probing features.

    data: settings of the command; saved: of the checkpoint's data.
    """
    if command == "probe":
        return
    asked, name = data["task"], "data.task"
    if asked in (None, saved["task"]) and data["target"] is not None:
        asked, name = "regression", f"data.target {data['target']}"
    if asked is None:  # null in a config, as in that of a run: as the labels show
        asked, name = task_of(data), f"data.labels {data['labels']}"
    if asked != saved["task"]:
        raise InputError(
            f"{name} asks for {asked}, and {path} was trained for {saved['task']}; leave it out, "
            f"or train for {asked} from its weights: --model.pretrained {path} instead of "
            f"--ckpt_path"
        )


# The settings that decide the parameter groups of the optimiser.
GROUP_SETTINGS = ("freeze_blocks", "layer_decay", "head_lr", "decay", "lora_rank", "lora_alpha")
RATE_SUFFIX = "_rate"  # dropout and stochastic depth may differ from the checkpoint's


def check_against_checkpoint(model: Any, saved: dict[str, Any], path: Path, command: str) -> None:
    """Refuse an architecture, or in ``fit`` an optimiser, other than the checkpoint's.

    model: the settings asked for; saved: those of the checkpoint.
    """
    # The arguments of ViT are the architecture; dropout rates have no weights.
    names = [name for name in inspect.signature(ViT).parameters if not name.endswith(RATE_SUFFIX)]
    if command == "fit":
        # of the optimiser the state would be loaded into another kind
        names += ["optimizer", "decoder_dim", "decoder_depth", "decoder_num_heads"]
        _check_groups(model, saved, path)
    for name in names:
        if name in model and name in saved and model[name] != saved[name]:
            raise InputError(
                f"model.{name} {model[name]} contradicts {path}, which has {saved[name]}; "
                f"leave out --model.{name}"
            )


def _check_groups(model: Any, saved: dict[str, Any], path: Path) -> None:
    """Refuse other parameter groups: the state of the optimiser is stored by group."""
    # of versions that had none
    saved = {"lora_rank": 0, "lora_alpha": None, "head_lr": None, **saved}
    for name in GROUP_SETTINGS:
        if name in saved and name in model and model[name] != saved[name]:
            asked, own = (
                "null" if value is None else value for value in (model[name], saved[name])
            )
            raise InputError(
                f"model.{name} {asked} contradicts {path}, whose training resumes only with "
                f"its own value, {own}; leave out --model.{name}, or start a new training "
                f"from its weights: --model.pretrained {path} instead of --ckpt_path"
            )


def data_of_checkpoint(
    data: dict[str, Any], wanted: Any, command: str, where: Mapping[str, str]
) -> dict[str, Any]:
    """Defaults from a checkpoint's data, for ``probe`` without its classes: other data have others.

    wanted: settings of the command, parsed without the checkpoint; where: as :func:`origins`.
    """
    if command != "probe" or wanted["data"]["images"]:
        return data
    left_out = {"class_names", "task"}
    # the column is one of the checkpoint's own table
    left_out |= {"target"} if wanted["data"]["labels"] else set()
    places = [name for name in ("dataset", "data_dir") if f"data.{name}" in where]
    if any(not _is_same(name, wanted["data"][name], data[name]) for name in places):
        left_out |= {"target", "labels", "fold"}
    return {name: value for name, value in data.items() if name not in left_out}


def check_one_model(source: str | None, saved: dict[str, Any], path: Path, command: str) -> None:
    """Refuse a checkpoint together with other weights: one of them would be ignored.

    A resumed training may name the weights that it began with, as a job does that is restarted by
    the same command. source: what --model.pretrained asks for; saved: settings of the checkpoint's
    model.
    """
    kept = saved.get("pretrained")
    if source is None or (command == "fit" and source == kept):
        return
    if command != "fit":
        raise InputError(
            f"model.pretrained {source} and the checkpoint {path} are two models; give {command} "
            f"one of them: leave out --model.pretrained, or --ckpt_path and --run"
        )
    began = "no other weights" if kept is None else kept
    raise InputError(
        f"model.pretrained {source} contradicts {path}, whose training began with {began}; leave "
        f"out --model.pretrained to resume it, or --ckpt_path (and give another --run) to "
        f"start anew"
    )


def check_checkpoint(settings: Any, saved: dict[str, Any], path: Path, command: str) -> None:
    """Refuse settings that contradict a checkpoint.

    settings: those asked for; saved: those of the checkpoint's model.
    """
    check_against_checkpoint(settings["model"], saved, path, command)
    _check_image_shape(settings["data"], saved, path)


def _check_image_shape(data: Any, saved: dict[str, Any], path: Path) -> None:
    """Refuse images of another size or number of channels than the checkpoint's model takes."""
    for name in ("img_size", "in_chans"):
        asked, has = data[name], saved.get(name)
        if asked is None or has is None or _both_sides(asked) == _both_sides(has):
            continue
        raise InputError(
            f"data.{name} {asked} contradicts {path}, whose model takes {has}; leave out "
            f"--data.{name}, since images are made to fit, or give --model.pretrained {path} "
            f"instead of --ckpt_path, which makes the weights fit"
        )


def _both_sides(value: Any) -> Any:
    """One form for a size: 32 and [32, 32] mean the same square."""
    return list(value) if isinstance(value, list | tuple) else [value, value]


def tell_saved(kept: dict[str, Any], without: Any, settings: Any, path: Path) -> None:
    """Log which settings come from the checkpoint, so that none is a surprise.

    kept: settings of its training; without: the settings, parsed without it.
    """
    # Those that a flag or a config changed, or that are the defaults anyway, are not worth a line.
    taken = [
        f"{name} {value}"
        for name, value in kept.items()
        if settings.get(name) == value != without.get(name)
    ]
    if taken:
        inform(f"settings from {path}: {', '.join(taken)} (flags and configs override them)")


def tell_changed(content: dict[str, Any], settings: Any, path: Path) -> None:
    """Log which settings of model and data differ from those of the checkpoint's training."""
    changed = [
        f"{group}.{name} {settings[group][name]} (was {value})"
        for group, part in (("model", MODEL_KEY), ("data", DATA_KEY))
        for name, value in content[part].items()
        if name in settings[group]
        and not _is_same(name, settings[group][name], value)
        and is_plain_value(value)
    ]
    if changed:
        inform(f"changed since {path}: {', '.join(changed)}")


def _is_same(name: str, now: Any, then: Any) -> bool:
    """Whether a setting has not changed; a place may be written in several ways."""
    if name == "data_dir" and not is_url(str(now)):
        now, then = (expanded(str(one)).resolve() for one in (now, then))
    return bool(now == then)


def check_held_out(past: PastTraining, data: Any, path: Path) -> None:
    """Refuse a split that would train on held-out images: later scores would be too good."""
    then = past.data
    name = differing_setting(data, then, "test") or differing_setting(data, then, "val")
    if name is not None:
        raise InputError(
            f"data.{name} {data[name]} contradicts {path}, which has {then[name]}: images that it "
            f"held out would be trained on; leave out --data.{name}"
        )
    if not past.record and may_have_shifted(data, then, "val"):
        warn(
            f"{path} does not record which images it held out: if images were added or removed "
            f"since, some of the held-out ones may be trained on now"
        )
