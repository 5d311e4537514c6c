"""A training named ``a`` in a process of its own: killed once it has saved, and what it saved."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from processes import environment

PATIENCE = 600.0  # seconds, for a machine that does other things


def last(folder: Path) -> Path:
    return folder / "lightning_logs" / "a" / "checkpoints" / "last.ckpt"


def saved(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(last(folder), weights_only=True)
    return found


def kill_once_saved(command: list[str], folder: Path) -> None:
    """Start the command and send SIGKILL as soon as there is a last.ckpt."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + PATIENCE
        while not last(folder).exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


class KillOnce(pl.Callback):
    """Sends SIGKILL to its own process after a step, if no run in this folder was killed yet."""

    MARK = "killed"  # the file that says so

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self.step and not Path(self.MARK).exists():
            Path(self.MARK).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def killed_after(step: int) -> list[str]:
    """Words of a training that ends so."""
    callback = f"{{class_path: killed_run.KillOnce, init_args: {{step: {step}}}}}"
    return [f"--trainer.callbacks=[{callback}]", "--allow_classes_of=killed_run"]
