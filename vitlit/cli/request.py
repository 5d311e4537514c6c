"""What one command line asks for: its settings, and the checkpoint or weights behind them.

words -> parsed once to find the checkpoint or weights -> their settings as defaults -> parsed again
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from vitlit.cli.batch_size import settle_batch_size
from vitlit.cli.check_settings import (
    check_first,
    check_own_folder,
    check_place,
    check_weights_are_given,
)
from vitlit.cli.configs import CONFIGS_FOLDER
from vitlit.cli.from_checkpoint import FromCheckpoint
from vitlit.cli.from_weights import (
    CONFIG_FLAGS,
    DATA_COMMANDS,
    FromWeights,
    origins,
    weights_asked_for,
)
from vitlit.cli.overview import TRAINING_COMMANDS
from vitlit.cli.parser import join_lists, keys_of, name_checkpoints, refuse_linked
from vitlit.data.csv_labels import task_of
from vitlit.data.image_folder import is_own_folder
from vitlit.errors import InputError, inform
from vitlit.evaluation.precision import PrecisionChoice, choose_precision, device_type
from vitlit.files import expanded, relative_path
from vitlit.tasks.known import KINDS
from vitlit.training.runs import checkpoint_of, find_start

PRECISION_OPTION = "--trainer.precision"
FOLDER_RECIPES = {"fit": "photos.yaml", "inspect": "photos.yaml", "pretrain": "pretrain.yaml"}
FINETUNE_RECIPE = "finetune.yaml"
IMAGE_COMMANDS = ("predict", "explain", "probe", "anomaly")  # that read --data.images
Start = FromCheckpoint | FromWeights | None


@dataclass(frozen=True)
class Request:
    """One command line, understood.

    command: its name; config: all settings, by command; run_folder: that of the named training, for
    ``fit``; ckpt_path: the checkpoint in use; start: the source of default settings;
    precision_place: what sets --trainer.precision: the option, a config, or else the checkpoint.
    """

    command: str
    config: Any
    run_folder: Path | None
    ckpt_path: str | None
    start: Start
    precision_place: str

    @property
    def settings(self) -> Any:
        """The settings of the command."""
        return self.config[self.command]

    @property
    def kind(self) -> str:
        """``fit`` for every command that trains, which all start and resume alike."""
        return kind_of(self.command)

    def precision_rule(self) -> Callable[[str | None], PrecisionChoice]:
        """The rule from the precision of a model's training to that of its use in this command."""
        trainer = self.settings["trainer"]
        device, asked = device_type(str(trainer["accelerator"])), trainer["precision"]
        # A config describes the training. In a command that scores it is no wish of the user.
        given = asked if self.kind == "fit" or self._is_precision_option() else None
        place = self.precision_place

        def choose(trained: str | None) -> PrecisionChoice:
            return choose_precision(self.kind, device, asked or trained, given, place)

        return choose

    def _is_precision_option(self) -> bool:
        return self.precision_place == PRECISION_OPTION

    def precision_hint(self) -> str:
        """How to choose another precision, unless the user just did, or it cannot be chosen."""
        is_fixed = self.command == "export" or self._is_precision_option()
        return "" if is_fixed else f"; {PRECISION_OPTION} overrides it"


def kind_of(command: str) -> str:
    """``fit`` for every command that trains, else the command itself."""
    return "fit" if command in TRAINING_COMMANDS else command


def read_request(
    command: str,
    parser: ArgumentParser,
    command_parser: ArgumentParser,
    args: list[str],
) -> Request:
    """Parse a command line; twice if a checkpoint or weights give defaults.

    parser: that of the program; command_parser: that of this command. Raises InputError if the
    settings contradict each other or what they start from.
    """
    # Before parsing, while the words tell apart what the user set and what is a default.
    args = name_folder(join_lists(name_checkpoints(args)))
    named = keys_of(args)
    refuse_linked(named, "the command line")
    # --print_config would print and exit in the first pass, before the defaults are known.
    quiet = [arg for arg in args if not arg.startswith("--print_config")]
    config, kind = parser.parse_args(quiet), kind_of(command)
    first = config[command]
    has_own_folder = names_own_folder(first["data"], args, unlabelled=command == "pretrain")
    if has_own_folder and "data.dataset" not in origins(args):
        command_parser.set_defaults({"data.dataset": "folder"})
        config = parser.parse_args(quiet)
        first = config[command]
    run_folder, path = find_start(first, kind)
    start = start_from(path, first, kind, args)
    if start is not None:
        # As defaults, so that configs and flags still override them in the second pass.
        command_parser.set_defaults(start.defaults())
        args = [*args, *start.words]
    elif command not in DATA_COMMANDS and quiet == args:  # --print_config works without a model
        kinds = "a .ckpt file, a run folder, best or last"
        if command == "compare":
            raise InputError(f"compare needs checkpoints: `vitlit compare A B`, each {kinds}")
        raise InputError(
            f"{command} needs --ckpt_path: {kinds}; or --run: the name of a run; "
            f"or --model.pretrained: published weights"
        )
    if start is not None or args != quiet:  # else it would say the same again
        config = parser.parse_args(args)
    settings = config[command]
    if kind != "fit":  # others merge adapters into their weights
        settings["model"]["lora_rank"], settings["model"]["lora_alpha"] = 0, None
    check_first(settings)
    where = origins(args)
    refuse_unused_data(settings["data"], command, where)
    turn_off_unused(settings, where)
    check_place(settings, command)
    if has_own_folder:
        check_own_folder(settings["data"])
    settle_batch_size(settings, command, start)
    # The resolved file: Lightning reads "best" and "last" in a way of its own.
    ckpt_path = None if path is None else str(path)
    settings["ckpt_path"] = ckpt_path
    if command == "compare" and settings["run"] is not None:
        settings["others"] = others_of_run(settings)
    if start is not None:
        if isinstance(start, FromCheckpoint):
            # A recipe's "???" overrides the default; the training began where the checkpoint says.
            settings["model"]["pretrained"] = start.model.get("pretrained")
        start.check(settings, run_folder)
    elif command == "fit":
        check_weights_are_given(settings["model"])
    place = shown_config(where.get("trainer.precision", str(path)))
    return Request(command, config, run_folder, ckpt_path, start, place)


def others_of_run(settings: Any) -> list[str]:
    """The other checkpoints of ``compare``: best and last are those of the named run, too."""
    root = expanded(settings["trainer"]["default_root_dir"] or ".")
    return [
        str(checkpoint_of(root, settings["run"], one)) if one in ("best", "last") else one
        for one in settings["others"] or ()
    ]


def refuse_unused_data(data: Any, command: str, where: dict[str, str]) -> None:
    """Refuse images, and a split, that the command would not look at.

    data: its settings; where: the place that sets each setting, as :func:`origins` finds it.
    """
    if data["images"] and command not in IMAGE_COMMANDS:
        raise InputError(
            f"{command} looks at a data set; leave out images, or give them to "
            f"{', '.join(IMAGE_COMMANDS[:-1])} or {IMAGE_COMMANDS[-1]}",
            argument="images",
        )
    # A config may hold it for test: the configs of runs do.
    if command in ("validate", "explain") and where.get("data.split") == "--data.split":
        raise InputError(
            f"{command} looks at validation images; leave out split, or give it to test",
            argument="split",
        )


def turn_off_unused(settings: Any, where: dict[str, str]) -> None:
    """Turn off what a shipped recipe sets for other tasks than that of the labels, and say so.

    The user's own settings stay, and the task refuses them. where: the place that sets each
    setting, as :func:`origins` finds it.
    """
    model = settings["model"]
    names = {name for kind in KINDS.values() for name in kind.unused if name in model}
    places = {name: where.get(f"model.{name}", "--") for name in sorted(names)}
    shipped = {name: place for name, place in places.items() if is_shipped(place)}
    if not shipped:  # or the file of labels would be read for nothing
        return
    task = task_of(settings["data"])
    for name, nothing in KINDS[task].unused.items():
        if name in shipped and (value := model[name]) != nothing:
            model[name] = nothing
            inform(
                f"{name} {value} of {shown_config(shipped[name])} is for classes, and is not used "
                f"for {task}"
            )


def is_shipped(place: str) -> bool:
    """Whether the place of a setting is a config of the package."""
    is_option = place.startswith("--")
    return not is_option and Path(place).resolve().is_relative_to(CONFIGS_FOLDER.resolve())


def shown_config(place: str) -> str:
    """The place of a setting as people name it: a shipped config by its name, else a short path."""
    return Path(place).name if is_shipped(place) else relative_path(place)


def name_folder(args: list[str]) -> list[str]:
    """Turn ``fit PHOTOS`` into options, with the recipe for a folder unless a config is given.

    ``inspect PHOTOS`` and ``pretrain PHOTOS`` too.
    """
    if not args[1:2] or args[0] not in FOLDER_RECIPES or args[1].startswith("-"):
        return args
    command, folder, rest = args[0], args[1], args[2:]
    if not expanded(folder).is_dir():
        is_file = expanded(folder).exists()
        what = f"{folder} is not a folder" if is_file else f"there is no folder {folder}"
        way = f"--config {folder}" if folder.endswith((".yaml", ".yml")) else "a folder of images"
        raise InputError(f"{what}; give {command} {way}")
    named = {word.partition("=")[0] for word in rest}
    if other := named & {"--data.dataset", "--data.data_dir"}:
        raise InputError(
            f"{command} {folder} {DATA_COMMANDS[command]} that folder, so it takes no "
            f"{min(other)}; leave out one of the two"
        )
    config: list[str] = []
    if not named & {*CONFIG_FLAGS, "--ckpt_path"}:
        is_finetuning = command != "pretrain" and "--model.pretrained" in named
        name = FINETUNE_RECIPE if is_finetuning else FOLDER_RECIPES[command]
        config = [f"--config={name}"]
        inform(f"using the recipe {name}, since no --config is given")
    # Before the other words, which override it; the folder comes after their configs.
    return [command, *config, *rest, "--data.dataset=folder", f"--data.data_dir={folder}"]


def names_own_folder(data: Any, args: list[str], *, unlabelled: bool = False) -> bool:
    """Whether the words name a data_dir with someone's own images, as settings of ``data``."""
    folder = expanded(data["data_dir"])
    if data["images"] or not is_own_folder(folder, unlabelled=unlabelled):
        return False
    return "data.data_dir" in origins(args)


def start_from(path: Path | None, first: Any, command: str, args: list[str]) -> Start:
    """The checkpoint at ``path``, else the weights that --model.pretrained names, else None."""
    if path is not None:
        return FromCheckpoint(path, first, command, origins(args))
    source = weights_asked_for(first["model"])
    return FromWeights(source, first, command, args) if source else None
