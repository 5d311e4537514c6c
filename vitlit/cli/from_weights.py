"""Which settings a person gave, and where: what the source of the weights may not overrule.

words of a command line -> {name of a setting: the config file or the option that sets it}
"""

from pathlib import Path
from typing import Any

from vitlit.cli.configs import CONFIGS_FOLDER, find_config
from vitlit.cli.parser import LINKED, flat_keys, keys_of
from vitlit.cli.safe_yaml import read_yaml
from vitlit.data.datamodule import ImageData
from vitlit.errors import InputError, first_few
from vitlit.training.classifier import Classifier
from vitlit.weights.pretrained import Weights, class_names_of, load_weights, untold_statistics

CONFIG_FLAGS = ("--config", "-c")
DEBUG_CONFIG = (
    CONFIGS_FOLDER / "debug.yaml"
)  # its depth is for models that are trained from scratch
OFTEN_UNTOLD = {"num_heads": "model", "norm_eps": "model", "act": "model", "img_size": "data"}


def origins(args: list[str]) -> dict[str, str]:
    """The last place that sets each setting: the path of a config file, or ``--name``."""
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
    """What the person gave of that which weights may not tell."""
    named = {name: group for name, group in OFTEN_UNTOLD.items() if f"{group}.{name}" in where}
    return {name: settings[group][name] for name, group in named.items()}


def small_depth(weights: Weights, where: dict[str, str]) -> list[str]:
    """The option that sets the depth of the weights in place of debug.yaml's."""
    place, depth = where.get("model.depth"), weights.arguments["depth"]
    if place is None or not _is_same_file(place, DEBUG_CONFIG):
        return []
    weights.notes.append(
        f"the depth of {DEBUG_CONFIG.name} is left out; the weights have {depth} blocks"
    )
    return [f"--model.depth={depth}"]


def _is_same_file(place: str, file: Path) -> bool:
    return not place.startswith("--") and Path(place).resolve() == file.resolve()


def note_statistics(weights: Weights, data: Any, where: dict[str, str]) -> None:
    """Note which mean and std are used, where neither weights nor person tell.

    data: the ImageData in use.
    """
    chosen = {"data.mean", "data.std", "data.normalize"} & where.keys()
    if weights.mean is None and not chosen:
        whose = "ImageNet's" if data.dataset == "folder" else f"those of {data.dataset}"
        weights.notes.append(untold_statistics(data.mean, data.std, whose))


# of weights
FIXED_BY_WEIGHTS = ("embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values")
HEADLESS_COMMANDS = (
    "probe",
    "explain",
    "export",
)  # commands that weights without a head will do for


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
            f"data.class_names ({first_few(names)}) are not the {len(theirs)} classes of {source} "
            f"({first_few(theirs)}); leave them out, or fine-tune the weights with `vitlit fit`"
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


class FromWeights:
    """Published weights, which give the architecture, and classes and pixels where they tell.

    source: a file, folder or name; first: settings of the command as they are without them; args:
    the command line. words: that it lacks.
    """

    note = ""
    precision = None  # of their training, which no file of weights tells

    def __init__(self, source: str, first: Any, command: str, args: list[str]) -> None:
        self.first, self.command = first, command
        self.where = origins(args)
        self.weights = load_weights(source, given_arguments(first, self.where))
        self.words = tuple(small_depth(self.weights, self.where))
        self.headless = command != "fit" and not self.weights.arguments["num_classes"]

    def defaults(self) -> dict[str, Any]:
        """By dotted name."""
        model, data = starting_points(self.weights, self.first, self.command)
        return by_dotted_name(self.first, model=model, data=data)

    def check(self, settings: Any, run: Path | None) -> None:
        """Refuse settings that the weights cannot be made to fit."""
        check_against_weights(settings, self.weights, self.where, self.command)

    def fill(self, model: Classifier, data: ImageData) -> None:
        """Put the weights into the model, which then has its own copy."""
        note_statistics(self.weights, data, self.where)
        if self.headless:
            model.vit.remove_head()
        model.load_pretrained(self.weights)
        del self.weights


def by_dotted_name(known: Any, **groups: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted name, without those that follow from others, or that nothing knows."""
    values = {f"{group}.{name}": value for group in groups for name, value in groups[group].items()}
    return {name: values[name] for name in values if name in known and name not in LINKED}


ASK_USER = "???"  # in a recipe's model.pretrained: the user has to give it; OmegaConf's mark


def weights_asked_for(model: Any) -> str | None:
    """What --model.pretrained says; nothing where a recipe leaves it to the user."""
    source: str | None = model["pretrained"]
    return None if source == ASK_USER else source
