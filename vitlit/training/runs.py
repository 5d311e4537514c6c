"""Folders of runs: their names, the one process that may write to each, and which are finished.

name | SLURM job | date and time -> lightning_logs/NAME, locked -> checkpoint to resume from
"""

import os
import re
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from vitlit.errors import InputError, inform, warn
from vitlit.files import (
    CHECKPOINTS_FOLDER,
    COMMAND_FILE,
    FINISHED_FILE,
    HISTORY_FILE,
    LAST_FILE,
    RUNS_FOLDER,
    SERIES_FILE,
    expanded,
    run_name,
)
from vitlit.training.run_lock import lock_folder
from vitlit.training.slurm import job_name
from vitlit.training.trainable import TrainableViT
from vitlit.weights import checkpoint

MEGABYTE = 1e6  # bytes
# one folder, never ".." nor an option; or a training of a series, in the folder of that
RUN_NAME = re.compile(r"\w[\w.+-]*(/(fold|repeat)[0-9]+)?")
LOG_BYTES = 10_000_000  # room for the logs, beside the checkpoints


def named_folder(root: Path, name: str | None, argument: str = "run") -> Path | None:
    """The folder of the run that the user (name) or the SLURM job names; None if neither does."""
    name = job_name(os.environ) if name is None else name
    if name is None:
        return None
    if not RUN_NAME.fullmatch(name):
        message = f"{argument} {name!r} is not a name; use letters, digits and . _ + -"
        raise InputError(message, argument=argument)
    return root / RUNS_FOLDER / name


def start_of(folder: Path | None, given: str | None) -> Path | None:
    """The checkpoint that a training starts from, if any.

    folder: that of the named run, if there is one. given: ``ckpt_path``.

    A run that has a checkpoint resumes from it: the same command starts a run and, after an
    interruption, continues it. So only ``best`` or a path within the run overrides its last
    checkpoint. Raises InputError if the run is finished.
    """
    if folder is not None:
        _check_is_unfinished(folder)
        _check_is_no_series(folder)
        # A restarted job still names the checkpoint that it began with, but has its own by now.
        is_elsewhere = given is not None and given != "last" and _is_outside(given, folder)
        if given in (None, "last") or is_elsewhere:
            own = _own_last(folder)
            if own is not None and is_elsewhere:
                inform(f"run {run_name(folder)} resumes from its own {own.name}, not {given}")
            if own is not None:
                return own
        if given in ("best", "last"):
            return checkpoint.resolve_checkpoint(given, folder)
    return checkpoint.resolve_checkpoint(given, prefer="last") if given else None


def _own_last(folder: Path) -> Path | None:
    """The checkpoint that a run resumes from: its last, or its best if the last is gone."""
    if last := checkpoint.find_checkpoint(folder / CHECKPOINTS_FOLDER, "last"):
        return last
    if best := checkpoint.find_checkpoint(folder / CHECKPOINTS_FOLDER, "best"):
        warn(f"run {run_name(folder)} has no last.ckpt; it resumes from {best.name}")
        return best
    return None


def checkpoint_of(root: Path, name: str | None, given: str | None) -> Path | None:
    """The checkpoint that a command other than ``fit`` uses, if any.

    name: ``run``; alone it means the best checkpoint of that run. given: ``ckpt_path``; its
    ``best`` and ``last`` are those of the named run, else of the newest.
    """
    folder = named_folder(root, name)
    if folder is not None and name is None and not folder.is_dir():
        folder = None  # a SLURM job that scores what another job trained
    if given is None:
        return checkpoint.resolve_checkpoint(str(folder)) if name is not None else None
    return checkpoint.resolve_checkpoint(given, folder)


def find_start(settings: Any, command: str) -> tuple[Path | None, Path | None]:
    """The folder of the named training (only for ``fit``), and the checkpoint to start from."""
    root = expanded(settings["trainer"]["default_root_dir"] or ".")
    if command != "fit":
        return None, checkpoint_of(root, settings["run"], settings["ckpt_path"])
    named = named_folder(root, settings["run"])
    return named, start_of(named, settings["ckpt_path"])


def _is_outside(given: str, folder: Path) -> bool:
    return given != "best" and not Path(given).resolve().is_relative_to(folder.resolve())


def _is_first_in_lightning() -> bool:
    """Whether this is the first process of all nodes, as Lightning counts them.

    Lightning's rank counts from 0 on every node if it starts the processes itself.
    """
    # Not errors.is_first_process, which also answers before Lightning is loaded and so knows only
    # the launchers that set its variables: under LSF or MPI every process would claim the folder.
    from pytorch_lightning.utilities import rank_zero_only  # at hand in a training alone

    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank == 0 and os.environ.get("NODE_RANK", "0") == "0"


class Claim:
    """The right to write to one run's folder; a context manager around the whole command.

    Of several processes only the first holds it; Lightning tells the others the folder's name.
    A command that fails before its first checkpoint leaves no new folder behind; one that saves no
    checkpoints leaves it if an epoch was done.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._lock: Any = None
        self._is_new = False
        self._saves = True  # checkpoints

    def __enter__(self) -> "Claim":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._is_new and self.folder is not None:
            kept = f"{CHECKPOINTS_FOLDER}/*.ckpt" if self._saves else HISTORY_FILE
            if not any(self.folder.glob(kept)):
                shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # lightning_logs holds other runs
                self.folder.parent.rmdir()
        if self._lock is not None:
            self._lock.close()

    def take(self, root: Path, named: Path | None) -> Path:
        """Make and lock the folder ``named``, or one named after the time, and return it.

        Raises InputError if the run is finished, in use, or its folder cannot be made.
        """
        if named is not None:
            _check_is_unfinished(named)
        folder = named or root / RUNS_FOLDER / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
        if not _is_first_in_lightning():
            return folder
        try:
            if named is None:
                folder = _make_new(folder)
                self._is_new = True
            else:
                self._is_new = _made(folder)
            self._lock = lock_folder(folder)
            self.folder = folder  # ours: until it is locked, another process may have made it too
        except OSError as error:
            raise InputError(
                f"cannot make the folder {folder}: {error.strerror}; change the permissions, or "
                f"give another default_root_dir",
                argument="default_root_dir",
            ) from error
        return folder

    def take_for(self, trainer: Any, root: Path, named: Path | None) -> Path | None:
        """Take a folder if the trainer's settings let it write anything; else return None."""
        self._saves = trainer["enable_checkpointing"] is not False
        writes = trainer["logger"] is not False or self._saves
        return self.take(root, named) if writes and not trainer["fast_dev_run"] else None

    def require_room(self, model: TrainableViT, *, averaged: bool) -> None:
        """Refuse to train what could not be saved. averaged: whether there is a moving average.

        Four checkpoints exist at once: best, last, the previous last, and the one being written.
        Each holds the weights and Adam's two moments, and the average if there is one.
        """
        if self.folder is None or not self._saves:
            return
        size = model.saved_bytes
        files = self.folder.glob(f"{CHECKPOINTS_FOLDER}/*.ckpt")
        present = sum(file.stat().st_size for file in files)
        require_room(self.folder, max(0, 4 * size * (4 if averaged else 3) - present) + LOG_BYTES)

    def finish(self) -> None:
        """Mark the run as finished if it left a checkpoint; its name cannot be used again."""
        if self.folder is not None and any(self.folder.glob(f"{CHECKPOINTS_FOLDER}/*.ckpt")):
            text = "The training reached its end.\n"
            (self.folder / FINISHED_FILE).write_text(text, encoding="utf-8")


def _check_is_unfinished(folder: Path) -> None:
    if (folder / FINISHED_FILE).exists():
        raise InputError(
            f"run {run_name(folder)} is finished; give the run another name, and ckpt_path "
            f"{folder / CHECKPOINTS_FOLDER / LAST_FILE} to train its model longer",
            argument=("run", "ckpt_path"),
        )


def _check_is_no_series(folder: Path) -> None:
    """Refuse to train in the folder of several trainings: these could not be continued any more."""
    if (folder / SERIES_FILE).exists():
        error = InputError(
            f"run {run_name(folder)} is the folder of several trainings; give another name, or the "
            f"number of trainings to continue them",
            argument="run",
        )
        with suppress(OSError, UnicodeError):  # a convenience
            error.way_on = (folder / COMMAND_FILE).read_text(encoding="utf-8").strip()
        raise error


def _made(folder: Path) -> bool:
    """Make the folder; whether it was not there."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return False
    return True


def _make_new(folder: Path) -> Path:
    """Make the folder; its name gets -2, -3, … if another process took it in the same second."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    number, name = 1, folder.name
    while True:
        try:
            folder.mkdir()  # atomic: of two processes one gets FileExistsError
            return folder
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{name}-{number}")


def require_room(folder: Path, needed: int) -> None:
    """Raise InputError if ``folder``, which exists, cannot take ``needed`` bytes.

    It writes a byte and removes it: permission bits do not tell of quotas or read-only mounts.
    """
    trial = folder / ".trial"
    try:
        trial.write_bytes(b"\0")
        trial.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(
            f"cannot write into {folder}: {error.strerror}; change its permissions, or give "
            f"another default_root_dir",
            argument="default_root_dir",
        ) from error
    if free < needed:
        raise InputError(
            f"{folder} has {free / MEGABYTE:.0f} MB free, and the checkpoints of this training "
            f"need {needed / MEGABYTE:.0f} MB; free some space, or give another default_root_dir",
            argument="default_root_dir",
        )
