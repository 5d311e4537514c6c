"""Faults on purpose, against promises: kills, signals and lost processes; writes reliability.md.

python benchmarks/reliability.py --write      # some minutes on two cores; --quick for a look

Every row is real processes, signals and files on this machine, with the shipped digits.
"""

import argparse
import datetime
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

FIT = [sys.executable, "-m", "vitlit", "fit", "--config=digits.yaml", "--trainer.accelerator=cpu"]
FIT += ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2", "--data.mixup=0.5"]
FIT += ["--model.pos_drop_rate=0.2", "--ema.decay=0.9", "--trainer.accumulate_grad_batches=2"]
FIT += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FIT += ["--checkpoints.every_n_steps=1", "--trainer.log_every_n_steps=5"]
DDP = ["--trainer.strategy=ddp", "--trainer.devices=2"]
STATE = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "global_step")
PATIENCE = 300.0  # seconds
TABLE = Path(__file__).with_suffix(".md")


class Row(NamedTuple):
    """A line of the table: what was done, and what was promised and found."""

    fault: str
    promised: str
    found: str


class Training:
    """``vitlit fit`` in a session of its own, in a folder."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.output = (folder / "output").open("a+")
        self.process = subprocess.Popen(
            [*FIT, *args],
            cwd=folder,
            env=environment,
            stdout=self.output,
            stderr=self.output,
            start_new_session=True,
        )

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Whether the condition came true before the training ended."""
        until = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def child(self) -> int:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(path.read_text().split()[0])

    def end(self) -> int:
        """Its status; kills it where it hangs, which counts as -1."""
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
        self.output.flush()


def last(folder: Path) -> Path | None:
    found = folder.glob("lightning_logs/*/checkpoints/last.ckpt")
    return max(found, key=os.path.getmtime, default=None)


def saved(folder: Path) -> dict[str, Any]:
    path = last(folder)
    return {} if path is None else torch.load(path, weights_only=True)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def step_of(folder: Path) -> int:
    return saved(folder).get("global_step", 0)


def killed_often(folder: Path, kills: int, seed: int) -> Row:
    """SIGKILL at random times, and the same command again, against a run left alone."""
    whole, cut = folder / "whole", folder / "cut"
    steps = 4 * kills
    args = ["--trainer.max_epochs=100000", f"--trainer.max_steps={steps}"]
    args += ["--model.schedule=constant"]
    for place in (whole, cut):
        place.mkdir(parents=True)
    Training(whole, *args).end()
    draws, done, lost, at = random.Random(seed), 0, 0, 0
    while done < kills:
        training = Training(cut, *args, "--run=cut")
        before = at
        target = before + draws.randint(1, 3)
        if not training.wait_for(lambda least=target: reached(cut, least)):  # type: ignore[misc]
            break
        time.sleep(draws.random() * 0.05)
        training.kill()
        at = step_of(cut)
        lost += at < target
        done += 1
    Training(cut, *args, "--run=cut").end()
    first, second = saved(whole), saved(cut)
    equal = all(same(first.get(name), second.get(name)) for name in STATE)
    found = f"{done} kills, weights {'equal' if equal else 'DIFFER'}, {lost} times a step lost"
    return Row(f"SIGKILL at {kills} random times", "bit-equal, no saved step lost", found)


def reached(folder: Path, step: int) -> bool:
    try:
        return step_of(folder) >= step
    except (OSError, RuntimeError, EOFError):
        return False  # is being written


def terminated(folder: Path, tries: int, args: list[str]) -> Row:
    """SIGTERM to the first process, the second, or both, in turn."""
    right = 0
    for number in range(tries):
        place = folder / f"try{number}"
        place.mkdir(parents=True)
        training = Training(place, *args, "--trainer.max_epochs=100000")
        training.wait_for(lambda where=place: last(where) is not None)  # type: ignore[misc]
        pids = [training.process.pid, *([training.child()] if args else [])]
        for pid in pids if number % 3 == 2 else [pids[number % 3 % len(pids)]]:
            os.kill(pid, signal.SIGTERM)
        status = training.end()
        text = (place / "output").read_text()
        [step] = re.findall(r"stopped by SIGTERM after step (\d+)", text) or ["-1"]
        right += status == 143 and int(step) == step_of(place)
    kind = "two processes, to the first, second, both" if args else "one process"
    return Row(f"SIGTERM, {kind}", f"saved, status 143: {tries} of {tries}", f"{right} of {tries}")


def lost(folder: Path, signum: signal.Signals, timeout: int) -> Row:
    folder.mkdir(parents=True)
    args = [*DDP, "--trainer.max_epochs=100000", f"--timeout_seconds={timeout}"]
    training = Training(folder, *args)
    training.wait_for(lambda: last(folder) is not None)
    os.kill(training.child(), signum)
    start = time.monotonic()
    training.process.wait(PATIENCE)
    spent = time.monotonic() - start
    training.kill()
    named = "lost rank 1" in (folder / "output").read_text()
    found = f"{spent:.1f} s, {'named' if named else 'NOT named'}"
    what = f"{signum.name} to one of two processes, timeout {timeout} s"
    return Row(what, f"the other ends within {timeout + 5} s and names it", found)


DRIVER = """
import sys
from vitlit.__main__ import main
from vitlit.division import Division

whole = Division.splits


def shorter(self, names):
    found = whole(self, names)
    return {{name: type(s)(s.images, s.members[:{count}]) for name, s in found.items()}}


Division.splits = shorter
sys.exit(main(sys.argv[1:]))
"""


def counted(folder: Path, count: int) -> Row:
    """Test images counted by two processes, and by one, and whether their scores agree."""
    folder.mkdir(parents=True)
    Training(folder, "--trainer.max_epochs=1").end()
    (folder / "driver.py").write_text(DRIVER.format(count=count))
    test = ["driver.py", "test", "--ckpt_path=last", "--trainer.accelerator=cpu"]
    test += ["--data.batch_size=8", "--trainer.enable_progress_bar=false"]
    together = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"]
    together += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", "--nnodes=1"]
    scores = []
    for command in (test, [*together, *test, *DDP]):
        result = subprocess.run(
            [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False
        )
        scores.append(re.findall(r"reached\s+(.*)\((\d+) images\)", result.stdout))
    [[(alone, _)], [(both, found)]] = scores if all(scores) else [[("", "")], [("-", "failed")]]
    agree = "as one process scores them" if alone == both else "scores DIFFER"
    return Row(f"test of {count} images on two processes", f"{count} counted", f"{found}, {agree}")


def table(rows: list[Row]) -> str:
    day = datetime.datetime.now(tz=datetime.UTC).date()
    lines = [
        "# Reliability",
        "",
        "Faults on purpose, in real processes. `python benchmarks/reliability.py --write` makes",
        f"this table; {day}, torch {torch.__version__}, {os.cpu_count()} CPU cores.",
        "",
        "| fault | promised | found |",
        "|---|---|---|",
        *(f"| {row.fault} | {row.promised} | {row.found} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write reliability.md")
    parser.add_argument("--quick", action="store_true", help="fewer tries")
    parser.add_argument("--seed", type=int, default=0, help="decides the times of the kills")
    args = parser.parse_args()
    kills, tries = (3, 3) if args.quick else (20, 9)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs: list[Callable[[], Row]] = [
            lambda: killed_often(folder / "kill", kills, args.seed),
            lambda: terminated(folder / "one", tries, []),
            lambda: terminated(folder / "two", tries, DDP),
            lambda: lost(folder / "killed", signal.SIGKILL, 15),
            lambda: lost(folder / "stopped", signal.SIGSTOP, 15),
            *(lambda count=count: counted(folder / str(count), count) for count in (61, 62, 63, 1)),
        ]
        for job in jobs:
            rows.append(job())
            print(*rows[-1], sep=" | ", flush=True)
    if args.write:
        TABLE.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
