"""What every training has besides model and data: callbacks in their order, loggers, config.yaml.

settings of ``fit``, run -> callbacks, loggers; words -> those that continue a stopped training

Lightning calls the hooks of callbacks in the order of the list, but moves checkpoint callbacks to
its end.
"""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.utilities import rank_zero_info

from vitlit.cli.from_weights import DEBUG_CONFIG
from vitlit.commands.run_summary import RunSummary
from vitlit.errors import InputError, Stopped, is_first_process
from vitlit.evaluation.run_logger import RunTensorBoard, into_run
from vitlit.evaluation.summary import WriteSummary
from vitlit.explain.attention_pictures import AttentionPictures
from vitlit.fault_tolerance.heartbeat import Heartbeat
from vitlit.fault_tolerance.nonfinite import FiniteUpdates
from vitlit.fault_tolerance.resume import Resume
from vitlit.fault_tolerance.signals import Stopping
from vitlit.files import (
    CHECKPOINTS_FOLDER,
    COMMAND_FILE,
    DEBUG_FILE,
    LAST_FILE,
    SERIES_VARIABLE,
)
from vitlit.pretraining.reconstructions import Reconstructions
from vitlit.tasks.task import Task
from vitlit.training import slurm
from vitlit.training.checkpoint_callbacks import (
    BestCheckpoint,
    LastCheckpoint,
    SaveSettings,
    monitor_mode,
)
from vitlit.training.ema import MovingAverage
from vitlit.training.epoch_lines import EpochLines, Pace
from vitlit.training.history import History
from vitlit.weights.checkpoint import PRETRAINING_SETTING

MAX_TIMEOUT = 10_000_000  # seconds, four months: longer than any training hangs


class DebugMark(Callback):
    """Marks a run as one that only tried whether everything runs: ``best`` passes over it."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            text = f"A trial with {DEBUG_CONFIG.name}; best and last skip it.\n"
            (self.run / DEBUG_FILE).write_text(text, encoding="utf-8")


def is_debug(settings: Any) -> bool:
    """Whether the config for trials is among those of the settings, or a copy of it."""
    return any(Path(str(path)).name == DEBUG_CONFIG.name for path in settings.get("config") or ())


class Guards(NamedTuple):
    """Callbacks that protect a training from faults: ``first`` and ``last`` in the list.

    skip: number of updates that are not finite and may be skipped; timed: whether validations come
    by the clock.
    """

    stopping: Stopping
    skip: int
    timed: bool = False

    @property
    def first(self) -> list[Callback]:
        """Before our other callbacks: Resume sets the loops, which the others read."""
        return [Resume(), FiniteUpdates(self.skip)]

    @property
    def last(self) -> list[Callback]:
        """After our other callbacks: a signal saves the step, which must be complete by then."""
        return [self.stopping, Heartbeat()]

    def fit(self, trainer: pl.Trainer, **kwargs: Any) -> None:
        """Warn of traps in the cluster's settings, then ``trainer.fit`` with signals handled."""
        if self.timed and trainer.world_size > 1:  # each would look at its own clock
            raise InputError(
                "trainer.val_check_interval is a time, and several processes do not begin a "
                "validation at the same time; give a number of batches, or a share of an epoch"
            )
        slurm.warn_of_cluster_traps(trainer)
        with self.stopping.listening():
            trainer.fit(**kwargs)


def make_guards(settings: Any) -> Guards:
    """The guards that the settings of ``fit`` ask for."""
    seconds = settings["timeout_seconds"]
    if not 0 < seconds <= MAX_TIMEOUT:  # false for NaN too
        raise InputError(
            f"timeout_seconds {seconds} is not above 0 and at most {MAX_TIMEOUT:,}; give such a "
            f"number"
        )
    interval = settings["trainer"]["val_check_interval"]
    is_timed = isinstance(interval, str | dict | timedelta)
    return Guards(Stopping(timedelta(seconds=seconds)), settings["nonfinite"]["skip"], is_timed)


def training_callbacks(
    settings: Any, run: Path | None, guards: Guards, precision: str, task: Task
) -> list[Callback]:
    """The callbacks of a training, besides those that the user configured.

    settings: those of ``fit``; run: its folder, None to write nothing; precision: that of the
    training, and why; task: what is learned, if it has labels.
    """
    # fast_dev_run only tries the code: it writes neither checkpoints nor a history.
    trainer, monitor = settings["trainer"], settings["checkpoints"]["monitor"]
    is_pretraining = PRETRAINING_SETTING in settings["model"]
    callbacks = guards.first
    if run is not None and is_debug(settings):
        callbacks.append(DebugMark(run))
    if trainer["enable_checkpointing"] is not False and not trainer["fast_dev_run"]:
        folder = None if run is None else run / CHECKPOINTS_FOLDER
        # "monitor" belongs to the best checkpoint; the rest says when last.ckpt is written.
        when = {k: v for k, v in settings["checkpoints"].items() if k != "monitor"}
        callbacks += [BestCheckpoint(folder, monitor), LastCheckpoint(folder, **when)]
        callbacks.append(SaveSettings(settings))
    elif not trainer["fast_dev_run"]:  # with it nobody expects any
        rank_zero_info("no checkpoint will be written: trainer.enable_checkpointing is false")
    if trainer["enable_model_summary"] is not False:
        callbacks.append(RunSummary(run, precision))
    shown = None if is_pretraining else f"val/{task.monitors[0]}"
    history = History(run, monitor, [EpochLines(monitor, shown)])
    callbacks += [history, Pace()]
    if run is not None and not is_pretraining:
        callbacks.append(WriteSummary(run, history))  # after the history, whose curves it draws
    every = settings["pictures"]["every_n_epochs"]
    if is_pretraining:
        callbacks.append(Reconstructions(run, every))
    elif every:
        callbacks.append(AttentionPictures(every))
    if (decay := settings["ema"]["decay"]) > 0:
        callbacks.append(MovingAverage(decay))
    if settings["early_stopping"]["patience"] > 0:
        # After validations alone: at the end of an epoch without one there may be no score, or an
        # old one. A score that is not finite is no improvement.
        how: Any = {"check_on_train_epoch_end": False, "check_finite": False}
        how |= {"mode": monitor_mode(monitor), **settings["early_stopping"]}
        callbacks.append(EarlyStopping(monitor, **how))
    return callbacks + guards.last


# Of the trainer, in TensorBoard's tab of hyper-parameters: those that decide the result.
SHOWN_SETTINGS = (
    "seed_everything",
    "ema.decay",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.precision",
)
SHOWN_SCORES = ("val/acc", "val/balanced_acc", "val/loss")


def run_board(run: Path, settings: Any) -> RunTensorBoard:
    """The TensorBoard of a training. settings: those of ``fit``."""
    shown = {name: settings[name] for name in SHOWN_SETTINGS}
    for group in ("model", "data"):
        shown |= {f"{group}.{name}": value for name, value in settings[group].items()}
    monitor = settings["checkpoints"]["monitor"]
    # of other tasks than single_label, the curves that there are
    scores = SHOWN_SCORES if monitor in SHOWN_SCORES else (monitor, "val/loss")
    return RunTensorBoard(run, shown, scores)


def fit_loggers(given: Any, settings: Any, run: Path | None) -> Any:
    """The loggers of a training; in its folder, unless a config names another place.

    given: None or True for the usual one, False for none, one logger or several; settings: those of
    ``fit``, whose loggers are not made yet; run: None for a training that writes nothing.
    """
    if run is None or given is False:
        return given if given not in (None, True) else False
    board = run_board(run, settings)
    if given in (None, True):
        return board
    asked = settings["trainer"]["logger"]
    pairs = zip(*(one if isinstance(one, list) else [one] for one in (given, asked)), strict=True)
    return [
        into_run(logger, vars(wish["init_args"]) if "init_args" in wish else {}, run, board)
        for logger, wish in pairs
    ]


@contextmanager
def naming_way_on(args: list[str], run: Path | None) -> Iterator[None]:
    """Within it, a signal that ends the training brings the command that continues it.

    args: the words of this command. The run's folder keeps them too, for ``vitlit runs``.
    """
    if run is not None and is_first_process():
        with suppress(OSError):  # a convenience; config.yaml tells enough to go on
            way_on = os.environ.get(SERIES_VARIABLE) or resume_command(args, run)
            (run / COMMAND_FILE).write_text(f"{way_on}\n", encoding="utf-8")
    try:
        yield
    except Stopped as stop:
        has_last = run is not None and (run / CHECKPOINTS_FOLDER / LAST_FILE).is_file()
        if run is not None and has_last and SERIES_VARIABLE not in os.environ:
            stop.way_on = resume_command(args, run)
        raise


def resume_command(args: list[str], run: Path) -> str:
    """The command that continues a training which was stopped. args: the words that began it.

    With the run's name the same words go on from its last checkpoint, but an explicit one would
    begin there again.
    """
    words: list[str] = []
    for word in args:
        if words and words[-1] == "--ckpt_path":
            word = "last"
        words.append("--ckpt_path=last" if word.startswith("--ckpt_path=") else word)
    if not any(word.partition("=")[0] == "--run" for word in words):
        words += ["--run", run.name]
    launcher = ""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        count = os.environ.get("LOCAL_WORLD_SIZE", "1")
        launcher = f"torchrun --nproc_per_node {count} -m -- "
        if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
            launcher = "torchrun (with the same options) -m -- "
    return f"{launcher}vitlit {shlex.join(words)}"


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the folder of the run, whichever loggers there are."""

    def __init__(self, parser: Any, config: Any, run: Path) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.run = run

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        place = str(self.run / self.config_filename)
        self.parser.save(self.config, place, skip_none=False, overwrite=True)
