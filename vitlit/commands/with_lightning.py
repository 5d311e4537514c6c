"""The command line: LightningCLI with one source of defaults, bare config names, short errors.

words -> Request (settings, and what they start from) -> model, data, trainer -> a command and its
last lines. A value comes from the first of: flag, --config file, checkpoint, default of the class.
"""

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from vitlit.cli.batch_size import choose_batch_size
from vitlit.cli.check_settings import (
    check_model,
    check_pretraining,
    check_trainer,
    check_unused,
    settle_monitor,
    tell_global_batch,
    warn_of_many_patches,
)
from vitlit.cli.options import add_options, add_seed
from vitlit.cli.overview import TRAINING_COMMANDS
from vitlit.cli.parser import link_settings, new_parser, only_safe_settings
from vitlit.cli.request import Request, read_request
from vitlit.cli.series import check_series
from vitlit.commands import fit_callbacks
from vitlit.commands.final_lines import fit_lines
from vitlit.commands.own_commands import explain_lines
from vitlit.commands.score_lines import score_lines, weights_option
from vitlit.commands.trainer import (
    OWN_COMMANDS,
    CommandParser,
    Trainer,
    Unprofiled,
    skip_idle_hooks,
)
from vitlit.errors import LostProcessError, inform
from vitlit.evaluation.report import make_report
from vitlit.evaluation.run_logger import RunTensorBoard
from vitlit.evaluation.scoring import WriteReport
from vitlit.fault_tolerance.ending import ending_at_signals
from vitlit.fault_tolerance.heartbeat import leave_group
from vitlit.fault_tolerance.lightning_internals import leave_signals_alone, use_bucket_views
from vitlit.files import RUNS_FOLDER, expanded
from vitlit.prediction.lightning_callback import WritePredictions
from vitlit.prediction.outputs import feature_of, make_writer
from vitlit.pretraining.masked_autoencoder import MaskedAutoencoder
from vitlit.tasks.task import Task
from vitlit.training.checkpoint_callbacks import has_ended
from vitlit.training.checkpoint_io import with_durable
from vitlit.training.classifier import Classifier, ImageData
from vitlit.training.progress_bar import Bar, is_terminal
from vitlit.training.runs import Claim


@dataclass(frozen=True)
class Writers:
    """What a command writes with: ``fit`` its run and guards, the others one callback or none."""

    run: Path | None = None
    guards: fit_callbacks.Guards | None = None
    report: WriteReport | None = None
    predictions: WritePredictions | None = None

    def callbacks(self, settings: Any, precision: str, task: Task) -> list[Callback]:
        """Those of the command, besides the bar and the user's; precision: which one, and why."""
        if self.guards is not None:
            about = (precision, task)
            return fit_callbacks.training_callbacks(settings, self.run, self.guards, *about)
        return [one for one in (self.report, self.predictions) if one is not None]


class VitCLI(LightningCLI):
    """``vitlit fit | pretrain | test | predict`` and all other commands: Lightning's and ours."""

    request: Request  # once the command line is parsed
    writers: Writers  # once the model and the data are made

    def __init__(self, args: list[str], claim: Claim) -> None:
        self.claim, self._command, self._args = claim, args[0], args
        super().__init__(
            MaskedAutoencoder if args[0] == "pretrain" else Classifier,
            ImageData,
            trainer_class=Trainer,
            seed_everything_default=0,  # an int: Lightning's True would draw a random seed
            save_config_callback=None,  # until the folder of the run is known
            parser_class=CommandParser,
            parser_kwargs={"prog": "vitlit", "description": "Vision Transformers."},
            args=args,
            # The schedule needs the number of steps, so the optimiser is made in the module.
            auto_configure_optimizers=False,
            # It would put the name of a function to call into the checkpoint's hyper-parameters.
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the command that is asked for: building the parsers of all takes a second."""
        own = {one: {"model", "datamodule", "precision_of"} for one in (*OWN_COMMANDS, "pretrain")}
        return {self._command: (LightningCLI.subcommands() | own)[self._command]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return new_parser(CommandParser, **kwargs)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_seed(parser)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        self.command_parser = parser
        add_options(parser, self._command)
        link_settings(parser, self._command)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.request = read_request(self._command, parser, self.command_parser, args)
        self.config = self.request.config
        # Hidden until before_instantiate_classes: Lightning's _parse_ckpt_path, which is called in
        # between, would let the checkpoint's settings override flags.
        self.request.settings["ckpt_path"] = None

    def before_instantiate_classes(self) -> None:
        settings, trainer = self.request.settings, self.request.settings["trainer"]
        settings["ckpt_path"] = self.request.ckpt_path
        check_trainer(trainer, self.request.kind)
        check_model(settings["model"], trainer, self.request.kind)
        check_unused(settings)
        check_series(settings, self.request.command)
        if self.request.command == "pretrain":
            check_pretraining(settings["data"])
        self.precision_rule = self.request.precision_rule()
        start = self.request.start  # None: a training from scratch
        choice = self.precision_rule(None if start is None else start.precision)
        trainer["precision"] = choice.name
        self.precision = f"{choice.name}, {choice.why}{self.request.precision_hint()}"
        # The summary of a training says it too.
        if self.request.kind != "fit" or trainer["enable_model_summary"] is False:
            inform(f"precision   {self.precision}")

    def after_instantiate_classes(self) -> None:
        settings = self.request.settings
        self.model.task.require(self._command)
        match self.request.kind:
            case "fit":  # these refuse settings before the data are read
                self.datamodule.augmentation.check_epochs(self.trainer.max_epochs)
                warn_of_many_patches(self.model.vit)
                self.claim.require_room(self.model, averaged=settings["ema"]["decay"] > 0)
                tell_global_batch(self.trainer, self.datamodule.batch_size, **settings["recipe"])
                if isinstance(self.model, Classifier):
                    self.model.load_teacher(self.datamodule)
            case "test":
                self.model.configure_scoring(flip=settings["flip"])
            case "predict":
                self.model.configure_scoring(feature=feature_of(settings, self.model.vit))
        if self.request.start is not None:
            self.request.start.fill(self.model, self.datamodule)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = self.config_init[self._command]["trainer"]
        if self.request.kind == "fit":
            settle_monitor(self.request.settings, self.model.task)
        choose_batch_size(self.request, self.model, self.datamodule)
        self.writers = self._make_writers(trainer)
        run, root = self.writers.run, expanded(trainer["default_root_dir"] or ".")
        # In a SLURM job without ckpt_path, Lightning resumes from any hpc_ckpt_N.ckpt in its root.
        # Our folders never hold one.
        kwargs["default_root_dir"] = run or root / RUNS_FOLDER
        kwargs["logger"] = self._loggers(trainer["logger"])
        if run is not None:
            self.save_config_callback = fit_callbacks.SaveConfig
            self.save_config_kwargs = {"run": run}
        kwargs["plugins"] = with_durable(trainer["plugins"])
        if trainer["profiler"] is None:
            kwargs["profiler"] = Unprofiled()
        # A config may name one callback without a list.
        given = trainer["callbacks"] or []
        given = [given] if isinstance(given, Callback) else given
        has_bar = any(isinstance(callback, ProgressBar) for callback in given)
        wants_bar = trainer["enable_progress_bar"] is not False and is_terminal()
        bars = [Bar()] if wants_bar and not has_bar else []
        kwargs["enable_progress_bar"] = has_bar or wants_bar  # else Lightning makes its own
        kwargs["enable_model_summary"] = False  # ours is RunSummary
        # Ours last: when a signal saves a checkpoint, the user's callbacks must have seen the step.
        own = self.writers.callbacks(self.request.settings, self.precision, self.model.task)
        trainer["callbacks"] = [*given, *bars, *own]
        made = super().instantiate_trainer(**kwargs)
        # These need the finished trainer: Lightning adds callbacks and its signal connector in it.
        skip_idle_hooks([*made.callbacks, self.model])  # type: ignore[attr-defined]
        leave_signals_alone(made)
        use_bucket_views(made)
        return made

    def _make_writers(self, trainer: Any) -> Writers:
        """What the command writes with. trainer: its settings, with classes instantiated."""
        request, settings = self.request, self.request.settings
        match request.kind:
            case "fit":
                root = expanded(trainer["default_root_dir"] or ".")
                run = self.claim.take_for(trainer, root, request.run_folder)
                return Writers(run=run, guards=fit_callbacks.make_guards(settings))
            case "test":
                assert request.start is not None
                report = make_report(settings, request.start)
                return Writers(report=WriteReport(report))
            case "predict":
                writer = make_writer(settings, self.datamodule.class_names, self.model.task)
                return Writers(predictions=WritePredictions(writer))
        return Writers()

    def _loggers(self, given: Any) -> Any:
        """The loggers to use. given: what the settings of the trainer say, instantiated."""
        run, settings = self.writers.run, self.request.settings
        if self._command == "test":
            assert self.writers.report is not None
            run = self.writers.report.report.run
            return given if given not in (None, True) else run is not None and RunTensorBoard(run)
        return fit_callbacks.fit_loggers(given, settings, run)

    def fit(self, **kwargs: Any) -> None:
        assert self.writers.guards is not None
        with fit_callbacks.naming_way_on(self._args, self.writers.run):
            self.writers.guards.fit(self.trainer, **kwargs)

    def pretrain(self, **kwargs: Any) -> None:
        """What is learned is the module's affair: the rest is a training like any other."""
        self.fit(**kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Predict without gathering all outputs in memory; the writer keeps what is needed."""
        kwargs["return_predictions"] = False
        self.trainer.predict(**kwargs)

    def compare(self, **kwargs: Any) -> None:
        """Score each model in the precision in which ``test`` would."""
        assert isinstance(self.trainer, Trainer)
        self.trainer.compare(
            precision_of=lambda trained: self.precision_rule(trained).name, **kwargs
        )

    def explain(self, **kwargs: Any) -> None:
        assert isinstance(self.trainer, Trainer)
        self._print(
            *explain_lines(self.trainer.explain(**kwargs), has_head=self.model.num_classes > 0)
        )

    def export(self, **kwargs: Any) -> None:
        assert isinstance(self.trainer, Trainer)
        self._print(self.trainer.export(**kwargs))

    def _print(self, *lines: str) -> None:
        if self.trainer.is_global_zero:
            print(*lines, sep="\n")

    def after_fit(self) -> None:
        if has_ended(self.trainer):
            self.claim.finish()
        self._print(*fit_lines(self.trainer, self.writers.run, self.request.settings))

    def after_pretrain(self) -> None:
        self.after_fit()

    def after_test(self) -> None:
        assert self.writers.report is not None
        self._print_scores(self.model.tested, self.writers.report.report.lines())

    def _print_scores(self, split: str, more: list[str]) -> None:
        settings = self.request.settings
        weights = weights_option(settings["ckpt_path"], settings["model"]["pretrained"])
        metrics = self.trainer.callback_metrics
        self._print(*score_lines(metrics, split, self.model.scored, weights, more))

    def after_validate(self) -> None:
        self._print_scores("val", [])

    def after_predict(self) -> None:
        assert self.writers.predictions is not None
        self._print(f"wrote       {self.writers.predictions.writer.path}")


def run_command(args: list[str]) -> None:
    """Parse and run a command.

    args: the command and its options. ``sys.argv`` stays as it is: DDP starts its other processes
    with the same words.
    """
    try:
        # A training handles signals itself, once it can save.
        ending = nullcontext() if args[0] in TRAINING_COMMANDS else ending_at_signals()
        with only_safe_settings(args), ending, Claim() as claim:
            VitCLI(args, claim)
    except LostProcessError:
        raise  # the group cannot be left: that would wait for the lost process
    except BaseException:
        leave_group()
        raise
    leave_group()
    sys.stdout.flush()
