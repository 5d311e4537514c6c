"""Trainings as processes, to be killed, stopped and signalled, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FIT = ["fit", "--config=digits.yaml", "--trainer.accelerator=cpu", "--ema.decay=0.9"]
FIT += ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2", "--data.mixup=0.5"]
FIT += ["--model.pos_drop_rate=0.2", "--trainer.accumulate_grad_batches=2"]
FIT += ["--model.schedule=constant", "--model.warmup_fraction=0", "--model.warmup_steps=5"]
FIT += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FIT += ["--checkpoints.every_n_steps=1", "--trainer.log_every_n_steps=5"]
FIT += ["--allow_classes_of=chain", "--trainer.callbacks=[chain.Chain]"]
ENDLESS = "--trainer.max_epochs=1000000"
DDP = ["--trainer.strategy=ddp", "--trainer.devices=2"]
STATE = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "global_step")
STATE += ("position", "lr_schedulers")
NOTES, TAIL = "chain-0", 20_000  # the first process's, and bytes enough for their last lines
PATIENCE = 300.0  # seconds after which a process hangs

CHAIN = '''
"""Notes for each batch that was trained on: the update it is of, its epoch, its images."""
import json
from pathlib import Path
from pytorch_lightning import Callback
from vitlit.training.checkpoint_callbacks import is_within_step


class Chain(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        update = trainer.global_step + is_within_step(trainer)
        with Path(f"chain-{trainer.global_rank}").open("a") as file:
            file.write(json.dumps([update, batch.epoch, batch.sample.tolist()]) + "\\n")
'''


class Training:
    """``vitlit fit`` in a session of its own, in a folder that it makes."""

    def __init__(self, folder: Path, *args: str, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "chain.py").write_text(CHAIN, encoding="utf-8")
        self.folder = folder
        with (folder / "output").open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vitlit", *FIT, *args],
                cwd=folder,
                env={**os.environ, **quiet(), **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Whether the condition came true before the training ended."""
        until = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def saves(self) -> bool:
        """Wait for its first checkpoint."""
        return self.wait_for(lambda: last(self.folder) is not None)

    def pids(self) -> list[int]:
        """Of its processes, in the order of their ranks."""
        first = self.process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *(int(pid) for pid in children[:1])]

    def end(self) -> int:
        """Its status; -1 where it hangs and has to be killed."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            status = -1
        self.kill()
        return status

    def kill(self) -> None:
        for signum in (signal.SIGCONT, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, signum)
            except ProcessLookupError:
                break
        self.process.wait()

    def said(self) -> str:
        return (self.folder / "output").read_text()


def quiet() -> dict[str, str]:
    return {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def is_running(pid: int) -> bool:
    """Whether a process exists, and is more than an entry for its parent to collect."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def chain(folder: Path) -> list[list[Any]]:
    """The complete notes of the first process: [update, epoch, images] of each batch."""
    path = folder / NOTES
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def is_at(folder: Path, update: int) -> bool:
    """Whether the notes have come to an update, from their last line."""
    path = folder / NOTES
    if not path.exists():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().splitlines(keepends=True)
    whole = [line for line in lines[-2:] if line.startswith(b"[") and line.endswith(b"\n")]
    return bool(whole) and json.loads(whole[-1])[0] >= update


def last(folder: Path) -> Path | None:
    found = folder.glob("lightning_logs/*/checkpoints/last.ckpt")
    return max(found, key=os.path.getmtime, default=None)


def saved(folder: Path) -> dict[str, Any]:
    path = last(folder)
    return {} if path is None else torch.load(path, weights_only=True)


def step_of(folder: Path) -> int:
    return int(saved(folder).get("global_step", 0))


def steps_lost(folder: Path) -> int:
    """Updates that were made and are not in the checkpoint."""
    return max((update for update, *_ in chain(folder)), default=0) - step_of(folder)


def same(first: Any, second: Any) -> bool:
    """Whether all tensors and values are equal bit for bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    return bool(first == second)


def same_end(first: Path, second: Path) -> bool:
    """Whether two trainings ended in the same weights, averages and optimiser states."""
    one, other = saved(first), saved(second)
    return bool(one) and all(same(one.get(name), other.get(name)) for name in STATE)
