"""Commands that train nothing, without Lightning: the same options, settings and results.

words -> Request (as for all commands) -> model, data, machine -> a command and its last lines

What only Lightning has, such as several processes or a config of the trainer, is left to it.
"""

import sys
from typing import Any

import torch

from vitlit.cli.check_settings import check_model, check_unused
from vitlit.cli.options import (
    add_options,
    add_predict_options,
    add_seed,
    add_test_options,
    describe_options,
)
from vitlit.cli.parser import Parser, link_settings, new_parser, only_safe_settings
from vitlit.cli.request import Request, read_request
from vitlit.commands.machine import Machine, is_quick
from vitlit.commands.own_commands import explain_lines
from vitlit.commands.score_lines import score_lines, weights_option
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import inform
from vitlit.evaluation.report import make_report
from vitlit.fault_tolerance.ending import ending_at_signals
from vitlit.prediction.outputs import feature_of, make_writer
from vitlit.pretraining.maskable import MaskableViT
from vitlit.training.trainable import TrainableViT

# Parameters of the commands' methods that are no options.
OWN_PARAMETERS = {"model", "datamodule", "precision_of", "writer", "feature", "report"}


def make_parser(
    command: str, trainer: type = Machine, skip: set[str] = OWN_PARAMETERS
) -> tuple[Parser, Parser, list[str]]:
    """The parsers of the program and of the command, and the names of the command's own options.

    trainer: has the command as a method; skip: its parameters that are no options.
    """
    parser, own = (new_parser(Parser, prog=prog) for prog in ("vitlit", f"vitlit {command}"))
    add_seed(own)
    options: Any = {"fail_untyped": False, "sub_configs": True}
    own.add_class_arguments(trainer, "trainer", instantiate=False, **options)
    model = MaskableViT if command == "pretrain" else TrainableViT
    own.add_class_arguments(model, "model", **options)
    own.add_class_arguments(PlainImageData, "data", **options)
    add_options(own, command)
    link_settings(own, command)
    names = own.add_method_arguments(trainer, command, skip=skip)
    describe_options(own)
    if command == "predict":
        add_predict_options(own)
    if command == "test":
        add_test_options(own)
    parser.add_subcommands(required=True, dest="subcommand").add_subcommand(command, own)
    return parser, own, names


def run_quickly(args: list[str]) -> bool:
    """Run a command without Lightning; returns False, having done nothing, if it needs it."""
    with only_safe_settings(args):
        if not is_quick(args):
            return False
        with ending_at_signals():
            parser, own, names = make_parser(args[0])
            request = read_request(args[0], parser, own, args)
            _run(request, parser, names)
    sys.stdout.flush()
    return True


def _run(request: Request, parser: Parser, names: list[str]) -> None:
    settings, start = request.settings, request.start
    check_model(settings["model"], settings["trainer"], request.command)
    check_unused(settings)
    rule = request.precision_rule()
    choice = rule(None if start is None else start.precision)
    settings["trainer"]["precision"] = choice.name
    inform(f"precision   {choice.name}, {choice.why}{request.precision_hint()}")
    torch.manual_seed(settings["seed_everything"])
    made = parser.instantiate_classes(request.config)[request.command]
    model, data, machine = made["model"], made["data"], Machine(**settings["trainer"])
    model.task.require(request.command)
    given = {"model": model, "datamodule": data} | {name: settings[name] for name in names}
    match request.command:
        case "predict":
            given["writer"] = make_writer(settings, data.class_names, model.task)
            given["feature"] = feature_of(settings, model.vit)
        case "test":
            assert start is not None  # or read_request would have refused
            given["report"] = make_report(settings, start)
        case "compare":
            given["precision_of"] = lambda trained: rule(trained).name
    if request.command == "predict":
        data.check_images()  # before the weights are read
    if start is not None:
        start.fill(model, data)
    done = getattr(machine, request.command)(**given)
    match request.command:
        case "predict":
            print(f"wrote       {done}")
        case "explain":
            print(*explain_lines(done, has_head=model.num_classes > 0), sep="\n")
        case "export":
            print(done)
        case "test" | "validate":
            weights = weights_option(settings["ckpt_path"], settings["model"]["pretrained"])
            more = given["report"].lines() if request.command == "test" else []
            print(*score_lines(done.metrics, done.prefix, done.images, weights, more), sep="\n")
