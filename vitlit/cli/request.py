"""What one command line asks for: its settings, and what they come from besides the options.

words -> parsed once to find the checkpoint or weights -> their settings as defaults -> parsed again
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser

from vitlit.cli.check_settings import check_first, check_place, check_weights_are_given
from vitlit.cli.from_checkpoint import FromCheckpoint
from vitlit.cli.from_weights import FromWeights, weights_asked_for
from vitlit.cli.parser import join_lists, keys_of, name_checkpoints, refuse_linked
from vitlit.errors import InputError
from vitlit.evaluation.precision import PrecisionChoice, choose_precision, device_type
from vitlit.training.runs import find_start

Start = FromCheckpoint | FromWeights | None


@dataclass(frozen=True)
class Request:
    """One command line, understood.

    command: its name; config: all settings, by command; run_folder: of the training that is meant
    by name; ckpt_path: the checkpoint in use; start: what gave defaults to the settings;
    names_precision: whether an option, and not only a config, says what to compute in.
    """

    command: str
    config: Any
    run_folder: Path | None
    ckpt_path: str | None
    start: Start
    names_precision: bool

    @property
    def settings(self) -> Any:
        """Those of the command."""
        return self.config[self.command]

    def precision_rule(self) -> Callable[[str | None], PrecisionChoice]:
        """From what a model was trained in to what it is used in: one rule for all commands."""
        trainer = self.settings["trainer"]
        device, asked = device_type(str(trainer["accelerator"])), trainer["precision"]
        # what a config says of a command that scores is what the training was done in
        given = asked if self.command == "fit" or self.names_precision else None

        def choose(trained: str | None) -> PrecisionChoice:
            return choose_precision(self.command, device, asked or trained, given)

        return choose


def read_request(
    command: str,
    parser: LightningArgumentParser,
    command_parser: LightningArgumentParser,
    args: list[str],
) -> Request:
    """Parse a command line, twice where a checkpoint or weights give defaults.

    parser: of all commands; command_parser: of this one.
    """
    args = join_lists(name_checkpoints(args))
    named = keys_of(args)
    refuse_linked(named, "the command line")
    quiet = [arg for arg in args if not arg.startswith("--print_config")]  # which would end here
    first = parser.parse_args(quiet)[command]
    run_folder, path = find_start(first, command)
    start = start_from(path, first, command, args)
    if start is not None:
        command_parser.set_defaults(start.defaults())
        args = [*args, *start.words]
    elif command != "fit" and quiet == args:
        raise InputError(
            f"{command} needs --ckpt_path: a .ckpt file, a run folder, best or last; or "
            f"--model.pretrained: published weights"
        )
    config = parser.parse_args(args)
    settings = config[command]
    check_first(settings)
    check_place(settings, command)
    ckpt_path = None if path is None else str(path)
    settings["ckpt_path"] = ckpt_path
    if start is not None:
        start.check(settings, run_folder)
    else:
        check_weights_are_given(settings["model"])
    return Request(command, config, run_folder, ckpt_path, start, "trainer.precision" in named)


def start_from(path: Path | None, first: Any, command: str, args: list[str]) -> Start:
    """The checkpoint at ``path``, or else what --model.pretrained names, if anything."""
    if path is not None:
        return FromCheckpoint(path, first, command)
    source = weights_asked_for(first["model"])
    return FromWeights(source, first, command, args) if source else None
