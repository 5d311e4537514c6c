"""A command that starts from published weights: they give defaults, the user's settings override.

words of a command line -> {name of a setting: the config file or the option that sets it}
weights, settings -> defaults of model and data, checked against what the user gave
"""

import shlex
from pathlib import Path
from typing import Any

from vitlit.cli.configs import CONFIGS_FOLDER, find_config
from vitlit.cli.parser import LINKED, flat_keys, keys_of
from vitlit.cli.safe_yaml import read_yaml
from vitlit.cli.seen_images import tell_seen, tell_seen_before
from vitlit.data.catalog import IMAGENET_MEAN, is_file_set, source_of
from vitlit.data.datamodule import PlainImageData
from vitlit.data.leakage import PastTraining, data_identity
from vitlit.errors import InputError, first_few
from vitlit.images.framing import PLAIN_FRAMING
from vitlit.images.published_framing import framing_words
from vitlit.model.arguments import idle_arguments
from vitlit.model.features import HEADLESS_OUTPUTS
from vitlit.model.vit import config_of
from vitlit.tasks.known import DEFAULT_TASK, check_same_task
from vitlit.training.trainable import TrainableViT
from vitlit.weights.notes import untold_statistics
from vitlit.weights.pretrained import Weights, class_names_of, load_weights

CONFIG_FLAGS = ("--config", "-c")
# `COMMAND PHOTOS`: no model is needed, and the data decide the classes. What they do to the folder:
DATA_COMMANDS = {"fit": "trains on", "pretrain": "trains on", "inspect": "looks at"}
# Its depth is meant for models that are trained from scratch.
DEBUG_CONFIG = CONFIGS_FOLDER / "debug.yaml"
# Arguments of a model that bare files of weights often do not tell, and the group each belongs to.
OFTEN_UNTOLD = {
    "num_heads": "model",
    "norm_eps": "model",
    "act": "model",
    "global_pool": "model",
    "img_size": "data",
}


def origins(args: list[str]) -> dict[str, str]:
    """The last place that sets each setting: the path of a config file, or ``--name``.

    args: the words of the command line.
    """
    found: dict[str, str] = {}
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name in CONFIG_FLAGS:
            path = find_config(value if equals else following)
            found |= dict.fromkeys(flat_keys(read_yaml(path)), str(path))
        elif name.startswith("--"):
            words = [arg] if equals or following.startswith("--") else [arg, following]
            found |= {key: f"--{key}" for key in keys_of(words)}
    return found


def given_arguments(settings: Any, where: dict[str, str]) -> dict[str, Any]:
    """The arguments that the user gave of those that weights may not tell.

    where: the place that sets each setting, as :func:`origins` finds it.
    """
    named = {name: group for name, group in OFTEN_UNTOLD.items() if f"{group}.{name}" in where}
    return {name: settings[group][name] for name, group in named.items()}


def small_depth(weights: Weights, where: dict[str, str]) -> list[str]:
    """The option that replaces debug.yaml's depth by that of the weights, if debug.yaml sets it."""
    place, depth = where.get("model.depth"), weights.arguments["depth"]
    if place is None or not _is_same_file(place, DEBUG_CONFIG):
        return []
    weights.notes.append(
        f"the depth of {DEBUG_CONFIG.name} is ignored; the weights have {depth} blocks"
    )
    return [f"--model.depth={depth}"]


def _is_same_file(place: str, file: Path) -> bool:
    return not place.startswith("--") and Path(place).resolve() == file.resolve()


def note_statistics(weights: Weights, data: Any, where: dict[str, str]) -> None:
    """Note which mean and std are used if neither the weights nor the user say.

    data: the ImageData in use; where: the place that sets each setting.
    """
    chosen = {"data.mean", "data.std", "data.normalize"} & where.keys()
    if weights.mean is None and not chosen:
        is_its_own = source_of(data.dataset).mean != IMAGENET_MEAN
        whose = f"those of {data.dataset}" if is_its_own else "ImageNet's"
        weights.notes.append(untold_statistics(data.mean, data.std, whose))


def note_framing(weights: Weights, data: Any) -> None:
    """Note how image files are fitted if the weights say so, and it is not the usual way."""
    framing = data.preprocess.framing
    if framing != PLAIN_FRAMING and weights.framing is not None:
        same = framing_words(framing) == framing_words(weights.framing)
        whose = "as in their training" if same else "unlike in their training"
        size = data.preprocess.source_size
        weights.notes.append(f"images are {framing.describe(size)}, {whose}")


# Arguments that weights decide or overrule; other sizes and classes can be made to fit.
FIXED_BY_WEIGHTS = (
    *("embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values", "attention_init"),
)
# Commands that need no head.
HEADLESS_COMMANDS = ("probe", "explain", "export", "anomaly")


def check_against_weights(
    settings: Any, weights: Weights, where: dict[str, str], command: str
) -> None:
    """Refuse another width or depth than the weights have, and class names that are not theirs.

    settings: all of the command; where: the place that sets each of them (:func:`origins`).
    """
    model, source = settings["model"], settings["model"]["pretrained"]
    arguments = config_of(weights.arguments)  # a model made in Python keeps only those it was given
    # The default is the weights' value, so a difference was written by the user somewhere.
    for name in FIXED_BY_WEIGHTS:
        value, has = model[name], arguments[name]
        if value == has:
            continue
        place = where.get(f"model.{name}", "--")
        way, of = f"leave out --model.{name}", ""
        if not place.startswith("--"):
            way, of = f"leave it out there, or give --model.{name} {has}", f" of {place}"
        raise InputError(f"model.{name} {value}{of} contradicts {source}, which has {has}; {way}")
    # Commands that use the head as it is cannot rename its classes; fit and probe make their own.
    is_answering = command not in (*DATA_COMMANDS, "probe", "anomaly")
    is_headless = not is_answering or settings.get("output") in HEADLESS_OUTPUTS
    is_head_used = not is_headless and arguments["num_classes"] > 0
    names, theirs = settings["data"]["class_names"] or [], class_names_of(weights)
    is_other = weights.class_names is not None and sorted(names) != sorted(theirs)
    if is_head_used and (is_other or len(names) != len(theirs)):
        raise InputError(
            f"data.class_names ({first_few(names)}) are not the {len(theirs)} classes of {source} "
            f"({first_few(theirs)}); leave them out, or fine-tune the weights with `vitlit fit`"
        )


def starting_points(
    weights: Weights, wanted: Any, command: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Defaults of model and data that follow from weights.

    wanted: settings of the command, parsed without the weights. In ``fit`` the data decide classes
    and channels; in all other commands the weights do.
    """
    arguments = weights.arguments
    data: dict[str, Any] = {"img_size": arguments["img_size"]}
    if weights.invert:
        data["invert"] = True
    # With inverted images the mean and std of the weights hold only if they were trained so.
    if weights.mean is not None and (weights.invert or not wanted["data"]["invert"]):
        data |= {"mean": list(weights.mean), "std": list(weights.std or ())}
    if command in DATA_COMMANDS:
        return arguments, data
    # A labelled data set to probe: its classes are its own.
    if command == "probe" and not wanted["data"]["images"]:
        return arguments, data | {"in_chans": arguments["in_chans"]}
    if arguments["num_classes"]:
        names = class_names_of(weights)
    elif command == "explain" and not wanted["data"]["images"]:
        return arguments, data | {"dataset": "folder", "in_chans": arguments["in_chans"]}
    elif command in HEADLESS_COMMANDS or wanted.get("output") in HEADLESS_OUTPUTS:
        names = ["0", "1"]  # of a random head, which is removed before it is used
    else:
        source = wanted["model"]["pretrained"]
        raise InputError(
            f"{source} has no head, so it has no classes; fine-tune it with "
            f"`vitlit fit --config finetune.yaml --model.pretrained {shlex.quote(source)}`, or use "
            f"{', '.join(HEADLESS_COMMANDS)} or predict --output features, which need none"
        )
    data |= {"dataset": "folder", "class_names": names, "in_chans": arguments["in_chans"]}
    return arguments, data


def without_idle(model: dict[str, Any], first: Any, where: dict[str, str]) -> dict[str, Any]:
    """The weights' settings of a model, without those that the user's make void.

    Whoever asks for another pooling gave no pool_mlp_ratio, and could not leave it out.
    """
    usual = dict(first.items())
    given = {name: value for name, value in usual.items() if f"model.{name}" in where}
    idle = idle_arguments(usual | model | given)
    return {name: value for name, value in model.items() if name not in idle}


class FromWeights:
    """Published weights to start from: they give the architecture and, if known, the classes.

    source: a file, folder or name; first: settings of the command, parsed without them; args: the
    command line. words: options to add to it.
    """

    note = ""  # about scored images that the model may have been trained on
    precision = None  # no file of weights tells in which precision it was trained
    steps = 0  # nor after how many

    def __init__(self, source: str, first: Any, command: str, args: list[str]) -> None:
        self.source, self.first, self.command = source, first, command
        self.where = origins(args)
        self.weights = load_weights(source, given_arguments(first, self.where))
        thresholds = self.weights.task.get("thresholds")
        self.thresholds = None if thresholds is None else list(thresholds)
        self.words = tuple(small_depth(self.weights, self.where))
        self.headless = command not in DATA_COMMANDS and not self.weights.arguments["num_classes"]

    def defaults(self) -> dict[str, Any]:
        """Default values by dotted name."""
        model, data = starting_points(self.weights, self.first, self.command)
        dataset = self.first["data"]["dataset"]
        if "data.dataset" not in self.where:
            dataset = data.get("dataset", dataset)
        # sets of arrays have no files to fit
        if self.weights.framing is not None and is_file_set(dataset):
            data |= framing_words(self.weights.framing)
        if "class_names" in data:  # the head is used as it is
            data["task"] = self.weights.task.get("task", DEFAULT_TASK)
            model = {**model, "thresholds": self.thresholds}
        model = without_idle(model, self.first["model"], self.where)
        return by_dotted_name(self.first, model=model, data=data)

    def check(self, settings: Any, run: Path | None) -> None:
        """Refuse settings that the weights cannot be made to fit."""
        check_against_weights(settings, self.weights, self.where, self.command)
        if self.command not in (*DATA_COMMANDS, "probe"):  # which use the head as it is
            task = self.weights.task.get("task", DEFAULT_TASK)
            check_same_task(settings["data"]["task"] or DEFAULT_TASK, task, self.source)
            self._order_thresholds(settings)
        past, data = self.weights.past, settings["data"]
        if past is not None and data["fold"]:
            self._check_fold(past, data)
        if past is not None and self.command == "fit":
            tell_seen_before(past, data, self.source)
        elif past is not None:
            self.note = tell_seen(past, data, self.command, self.source)

    def _check_fold(self, past: PastTraining, data: Any) -> None:
        """Refuse another fold of the images that the weights come from."""
        is_same = data_identity(data) == data_identity(past.data)
        if is_same and data["fold"] != past.data.get("fold"):
            raise InputError(
                f"fold {data['fold']} would be tested on images that {self.source} was trained on; "
                f"leave fold out, or start from other weights",
                argument=("fold", "pretrained"),
            )

    def _order_thresholds(self, settings: Any) -> None:
        """Put them into the order of the class names, as the rows of the head will be."""
        names, model = settings["data"]["class_names"], settings["model"]
        if self.thresholds and names and model["thresholds"] == self.thresholds:
            own = dict(zip(class_names_of(self.weights), self.thresholds, strict=True))
            if own.keys() == {*names}:
                model["thresholds"] = self.thresholds = [own[name] for name in names]

    def fill(self, model: TrainableViT, data: PlainImageData) -> None:
        """Copy the weights into the model, and let go of them: a large model is held once."""
        note_statistics(self.weights, data, self.where)
        note_framing(self.weights, data)
        if self.weights.past is not None:
            data.hold_to(self.weights.past)
        if self.headless:  # the model was built with two classes that nobody named
            model.vit.remove_head()
        model.load_pretrained(self.weights)
        del self.weights


def by_dotted_name(known: Any, **groups: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted name, without those that are linked to others or unknown to the command."""
    values = {f"{group}.{name}": value for group in groups for name, value in groups[group].items()}
    return {name: values[name] for name in values if name in known and name not in LINKED}


# In a recipe's model.pretrained: the user must give it. OmegaConf marks missing values so.
ASK_USER = "???"


def weights_asked_for(model: Any) -> str | None:
    """What --model.pretrained names; None if a recipe leaves it to the user."""
    source: str | None = model["pretrained"]
    return None if source == ASK_USER else source
