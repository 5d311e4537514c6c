"""A training named ``a`` in a process of its own: killed once it has saved, and what it saved."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

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
