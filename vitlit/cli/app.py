"""The command line: LightningCLI with one source of defaults, bare config names, short errors.

A value comes from the first of: flag, --config file, checkpoint, default of the class.
"""

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_info

from vitlit.cli.check_settings import (
    check_checkpoints,
    check_early_stopping,
    check_first,
    check_place,
    check_trainer,
    check_weights_are_given,
    warn_of_many_patches,
)
from vitlit.cli.commands import COMMANDS
from vitlit.cli.fit_callbacks import make_guards, training_callbacks
from vitlit.cli.from_checkpoint import FromCheckpoint
from vitlit.cli.from_weights import FromWeights, weights_asked_for
from vitlit.cli.options import add_options, add_predict_options, add_test_options, describe_options
from vitlit.cli.parser import (
    ConfigFile,
    Parser,
    join_lists,
    keys_of,
    link_settings,
    name_checkpoints,
    only_safe_settings,
    refuse_linked,
)
from vitlit.cli.summary import explain_lines, fit_lines, score_lines, weights_option
from vitlit.cli.trainer import OWN_COMMANDS, Trainer
from vitlit.data.datamodule import ImageData
from vitlit.errors import InputError, Stopped, check_below_one
from vitlit.evaluation.precision import PrecisionChoice, choose_precision, device_type
from vitlit.evaluation.prediction_writer import feature_of, make_writer
from vitlit.evaluation.report import Report, report_place, run_folder_of
from vitlit.fault_tolerance.heartbeat import leave_group
from vitlit.fault_tolerance.lightning_internals import leave_signals_alone
from vitlit.training.checkpoint_io import with_durable
from vitlit.training.classifier import Classifier
from vitlit.training.loop_overhead import Unprofiled, skip_idle_hooks
from vitlit.training.progress_bar import Bar
from vitlit.training.runs import Claim, find_start, has_ended
from vitlit.weights.checkpoint import RUNS_FOLDER


class CommandParser(Parser):
    """Has the options of a method of the Trainer, and those that the command of its name adds."""

    def add_method_arguments(
        self, class_type: type, method_name: str, *args: Any, **kwargs: Any
    ) -> list[str]:
        added = super().add_method_arguments(class_type, method_name, *args, **kwargs)
        self.description = COMMANDS[method_name]
        if method_name not in OWN_COMMANDS:
            self.set_defaults({"weights_only": True})
            describe_options(self)
        if method_name in ("validate", "test"):
            self.set_defaults({"verbose": False})  # the last lines say it once
        if method_name == "test":
            add_test_options(self)
        if method_name == "predict":
            add_predict_options(self)
        return added


class VitCLI(LightningCLI):
    """``vitlit fit | validate | test | predict | explain | export | compare | probe``."""

    def __init__(self, args: list[str], claim: Claim) -> None:
        self.claim, self._command = claim, args[0]
        self.run: Path | None = None
        super().__init__(
            Classifier,
            ImageData,
            trainer_class=Trainer,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_class=CommandParser,
            parser_kwargs={"prog": "vitlit", "description": "Vision Transformers."},
            args=args,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is asked for: a parser for each of them would take a second."""
        own = {name: {"model", "datamodule", "precision_of"} for name in OWN_COMMANDS}
        return {self._command: (LightningCLI.subcommands() | own)[self._command]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(allow_abbrev=False, **kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ConfigFile,
            help="YAML file, or the name of a shipped one; later files override earlier ones.",
        )
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=self.seed_everything_default,
            help="Seed of weights, order, augmentation and dropout.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        self.command_parser = parser
        add_options(parser)
        link_settings(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse to find the checkpoint, take its settings as defaults, and parse again."""
        args = join_lists(name_checkpoints(args))
        named = keys_of(args)
        refuse_linked(named, "the command line")
        self.has_precision_option = "trainer.precision" in named
        command = self._command
        quiet = [arg for arg in args if not arg.startswith("--print_config")]
        first = parser.parse_args(quiet)[command]
        self.named, path = find_start(first, command)
        self.start = start_from(path, first, command, args)
        if self.start is not None:
            self.command_parser.set_defaults(self.start.defaults())
            args = [*args, *self.start.words]
        elif command != "fit" and quiet == args:
            raise InputError(
                f"{command} needs --ckpt_path: a .ckpt file, a run folder, best or last; or "
                f"--model.pretrained: published weights"
            )
        self.config = parser.parse_args(args)
        settings = self.config[command]
        check_first(settings)
        check_place(settings, command)
        self.ckpt_path = settings["ckpt_path"] = None if path is None else str(path)
        if self.start is not None:
            self.start.check(settings, self.named)
        else:
            check_weights_are_given(settings["model"])
        settings["ckpt_path"] = None  # for now: Lightning would let the checkpoint override flags

    def before_instantiate_classes(self) -> None:
        settings_of = self.config[self.subcommand]
        settings_of["ckpt_path"] = self.ckpt_path
        settings = settings_of["trainer"]
        check_trainer(settings, str(self.subcommand))
        check_early_stopping(**settings_of["early_stopping"])
        check_checkpoints(**settings_of["checkpoints"])
        check_below_one(**{"ema.decay": settings_of["ema"]["decay"]})
        self._set_precision(settings)
        if self.subcommand != "fit" or settings["logger"] is False:
            self.save_config_callback = None

    def _set_precision(self, settings: Any) -> None:
        """By the rule of all commands; what a config says in scoring is what training used."""
        device, asked = device_type(str(settings["accelerator"])), settings["precision"]
        given = asked if self.subcommand == "fit" or self.has_precision_option else None

        def rule(trained: str | None) -> PrecisionChoice:
            trained = trained if asked is None else asked
            return choose_precision(self._command, device, trained, given)

        self.precision_rule = rule
        choice = rule(None if self.start is None else self.start.precision)
        settings["precision"] = choice.name
        rank_zero_info(f"precision {choice.name}, {choice.why}")

    def after_instantiate_classes(self) -> None:
        settings = self.config[self.subcommand]
        if self.subcommand == "fit":  # refused before the data are read
            self.datamodule.augmentation.check_epochs(self.trainer.max_epochs)
            warn_of_many_patches(self.model.vit)
            self.claim.check_room(self.model, averaged=settings["ema"]["decay"] > 0)
        if self.subcommand == "test":
            self.model.flip = settings["flip"]
        if self.subcommand == "predict":
            self.model.feature = feature_of(settings, self.model.vit)
        if self.start is not None:
            self.start.fill(self.model, self.datamodule)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        settings = self.config_init[self.subcommand]["trainer"]
        root = Path(settings["default_root_dir"] or ".")
        if self.subcommand == "fit":
            self.run = self.claim.take_for(settings, root, self.named)
        # in a SLURM job without ckpt_path Lightning starts from any hpc_ckpt_N.ckpt in its root,
        # and there is none in folders of ours
        kwargs["default_root_dir"] = self.run or root / RUNS_FOLDER
        if settings["logger"] in (None, True):
            kwargs["logger"] = self._logger()
        kwargs["plugins"] = with_durable(settings["plugins"])
        if settings["profiler"] is None:
            kwargs["profiler"] = Unprofiled()
        given = settings["callbacks"] or []
        given = [given] if isinstance(given, Callback) else given
        settings["callbacks"] = [*given, *self._callbacks(settings, given)]
        trainer = super().instantiate_trainer(**kwargs)
        skip_idle_hooks([*trainer.callbacks, self.model])  # type: ignore[attr-defined]
        leave_signals_alone(trainer)
        return trainer

    def _logger(self) -> TensorBoardLogger | bool:
        """Of the run that is trained or tested, if there is one to write into."""
        run = self.run
        if self.subcommand == "test":
            run = run_folder_of(report_place(self.config[self.subcommand])[0])
        return run is not None and TensorBoardLogger(
            run.parent.parent, name=run.parent.name, version=run.name, default_hp_metric=False
        )

    def _callbacks(self, settings: Any, given: list[Callback]) -> list[Callback]:
        """What every run has besides the callbacks that the user configured."""
        callbacks: list[Callback] = []
        shows_bar = settings["enable_progress_bar"] is not False
        if shows_bar and not any(isinstance(callback, ProgressBar) for callback in given):
            callbacks.append(Bar())
        settings_of = self.config[self.subcommand]
        if self.subcommand == "test":
            assert self.start is not None
            self.report = Report(*report_place(settings_of), note=self.start.note)
            callbacks.append(self.report)
        if self.subcommand == "predict":
            self.predictions = make_writer(settings_of, self.datamodule.class_names)
            callbacks.append(self.predictions)
        if self.subcommand != "fit":
            return callbacks
        self.guards = make_guards(settings_of)
        return [*callbacks, *training_callbacks(settings_of, self.run, self.guards)]

    def fit(self, **kwargs: Any) -> None:
        self.guards.fit(self.trainer, **kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Lightning would gather all outputs; the writer has what is needed of them."""
        kwargs["return_predictions"] = False
        self.trainer.predict(**kwargs)

    def compare(self, **kwargs: Any) -> None:
        """Each model in the precision that ``test`` would score it in."""
        assert isinstance(self.trainer, Trainer)
        self.trainer.compare(
            precision_of=lambda trained: self.precision_rule(trained).name, **kwargs
        )

    def explain(self, **kwargs: Any) -> None:
        assert isinstance(self.trainer, Trainer)
        self.folder = self.trainer.explain(**kwargs)

    def export(self, **kwargs: Any) -> None:
        assert isinstance(self.trainer, Trainer)
        self._print(self.trainer.export(**kwargs))

    def _print(self, *lines: str) -> None:
        if self.trainer.is_global_zero:
            print(*lines, sep="\n")

    def after_fit(self) -> None:
        if has_ended(self.trainer):
            self.claim.finish()
        self._print(*fit_lines(self.trainer))

    def after_test(self) -> None:
        self._print_scores(self.model.tested, self.report.lines())

    def _print_scores(self, split: str, more: list[str]) -> None:
        settings = self.config[self.subcommand]
        weights = weights_option(settings["ckpt_path"], settings["model"]["pretrained"])
        first, *others = score_lines(self.trainer, split, self.model.scored, weights)
        self._print(first, *more, *others)

    def after_validate(self) -> None:
        self._print_scores("val", [])

    def after_predict(self) -> None:
        self._print(f"wrote       {self.predictions.path}")

    def after_explain(self) -> None:
        self._print(*explain_lines(self.folder, has_head=self.model.num_classes > 0))


def run_command(args: list[str]) -> None:
    """Parse and run; ``sys.argv`` is left as it is, since DDP starts its processes from it."""
    try:
        with only_safe_settings(args), Claim() as claim:
            VitCLI(args, claim)
    except Stopped:
        leave_group()
        raise
    leave_group()
    sys.stdout.flush()


def start_from(
    path: Path | None, first: Any, command: str, args: list[str]
) -> FromCheckpoint | FromWeights | None:
    """The checkpoint at ``path``, or else what --model.pretrained names, if anything."""
    if path is not None:
        return FromCheckpoint(path, first, command)
    source = weights_asked_for(first["model"])
    return FromWeights(source, first, command, args) if source else None
