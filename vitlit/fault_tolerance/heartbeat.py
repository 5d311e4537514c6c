"""Processes that watch each other, so that a failed collective can name the one that is lost.

each process -> a count in the shared store, each second -> ranks whose count stands still
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

from vitlit.errors import LostProcessError, Stopped, TrainingError, find_text
from vitlit.files import run_name
from vitlit.training.checkpoint_callbacks import LastCheckpoint

BEAT_SECONDS = 1.0  # between two beats
SILENCE_SECONDS = 2.5  # in which a living process beats at least twice
# Environment variable that tells the processes that Lightning starts the id of the first process.
FIRST_PROCESS_VARIABLE = "VITLIT_FIRST_PROCESS"


class Heartbeat(Callback):
    """Beats during training, and turns the error of a failed collective into one that names ranks.

    Processes that this one started end with it.
    """

    def __init__(self) -> None:
        self._beats: Beats | None = None
        self._children: list[Any] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size == 1:
            return
        self._beats = Beats(trainer.global_rank, trainer.world_size)
        # Only the launcher that starts scripts has Popen objects; the one that forks has others.
        started = getattr(trainer.strategy.launcher, "procs", None)
        if started and all(isinstance(child, subprocess.Popen) for child in started):
            # When a child in this list has failed, Lightning's observer thread kills this process
            # before it can say why. An empty list ends the observer.
            self._children = list(started)
            started.clear()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, Stopped | TrainingError):
            # All processes stop for this reason; the others may still be saving.
            self._wait(seconds=30.0)
        elif self._beats is not None and is_lost(exception):
            lost = self._beats.lost()
            self._wait(seconds=0.0)  # they wait for the lost process, for as long as the timeout
            text = describe_lost(lost, trainer.global_rank, run_name_of(trainer))
            raise LostProcessError(text, argument="timeout_seconds") from exception
        if self._beats is not None:
            self._beats.stop()

    def _wait(self, seconds: float) -> None:
        """Wait for the processes that this one started, and kill those that are still there."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(child.poll() is None for child in self._children):
            time.sleep(0.05)
        for child in self._children:
            if child.poll() is None:
                child.kill()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._beats is not None:
            self._beats.stop()


@contextmanager
def watching_launcher(lost: Callable[[bool], bool]) -> Iterator[None]:
    """Within it, check each second whether the process that started this one is still there.

    lost: called each second once it is gone, with whether it was torchrun, until it returns True.
    A process that no launcher started watches nothing.
    """
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    # Children of Lightning take it from the variable: the first process may be gone before they
    # have come up, and getppid would then name another process.
    launcher = os.getppid() if by_torchrun else int(os.environ.get(FIRST_PROCESS_VARIABLE, "0"))
    over = threading.Event()

    def watch() -> None:
        while not over.wait(BEAT_SECONDS):
            if os.getppid() != launcher and lost(by_torchrun):
                return

    is_first = not by_torchrun and not (launcher and "LOCAL_RANK" in os.environ)
    if is_first:
        os.environ[FIRST_PROCESS_VARIABLE] = str(os.getpid())
    else:
        threading.Thread(target=watch, daemon=True, name="launcher").start()
    try:
        yield
    finally:
        over.set()
        if is_first:
            os.environ.pop(FIRST_PROCESS_VARIABLE, None)


class Beats:
    """The counts of all processes; a thread of each raises its own.

    They are kept in the store of the process group, which works without collectives.
    """

    def __init__(self, rank: int, world: int) -> None:
        from torch.distributed.distributed_c10d import PrefixStore

        assert dist.group.WORLD is not None
        self.rank, self.world = rank, world
        # A prefix, since torch keeps keys of its own in this store.
        self._store = PrefixStore("vitlit", dist.group.WORLD.get_group_store())
        self._ended = threading.Event()
        self._store.add(str(rank), 1)  # before the thread: no rank is without a count
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()

    def _beat(self) -> None:
        try:
            while not self._ended.wait(BEAT_SECONDS):
                self._store.add(str(self.rank), 1)
        except RuntimeError:
            return  # rank 0, which holds the store, is gone; the collectives will fail

    def stop(self) -> None:
        self._ended.set()

    def lost(self) -> list[int]:
        """Ranks that do not beat; rank 0 if the store, which it holds, does not answer.

        Takes up to ``SILENCE_SECONDS`` and 1.5 seconds.
        """
        found = [0]  # stays so if the thread below never ends or the store raises

        def compare() -> None:
            before = self._counts()
            time.sleep(SILENCE_SECONDS)
            after = self._counts()
            others = [rank for rank in range(self.world) if rank != self.rank]
            found[:] = [rank for rank in others if after[rank] == before[rank]]

        # In a thread: a call to a store whose process is stopped (SIGSTOP) does not return.
        thread = threading.Thread(target=_quietly, args=(compare,), daemon=True)
        thread.start()
        thread.join(SILENCE_SECONDS + 1.5)
        return list(found)

    def _counts(self) -> list[int]:
        # add 0 reads without waiting; get would wait for a key that is not there.
        return [self._store.add(str(rank), 0) for rank in range(self.world)]


def _quietly(function: Any) -> None:
    try:
        function()
    except RuntimeError:
        return  # the store is gone


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process did not answer."""
    is_kind = isinstance(error, RuntimeError | dist.DistError)
    return is_kind and find_text("lost process", str(error)) is not None


def leave_group() -> None:
    """End gloo's threads: they could abort the process while Python shuts down.

    Lightning destroys the groups of NCCL itself.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


def run_name_of(trainer: pl.Trainer) -> str | None:
    """The name of the run, or None if it writes no last.ckpt to resume from."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, LastCheckpoint):
            return run_name(Path(str(callback.dirpath)).parent)
    return None


def describe_lost(lost: list[int], rank: int, run: str | None) -> str:
    """The last message of a process that lost others. run: as :func:`run_name_of` gives it."""
    ranks = ", ".join(map(str, lost)) or "unknown"
    way = f"the same command with run {run} resumes from its last.ckpt" if run else "start again"
    return (
        f"lost rank {ranks} (process {os.getpid()} is rank {rank}): it was killed, stopped, or did "
        f"not answer within timeout_seconds; {way}"
    )
