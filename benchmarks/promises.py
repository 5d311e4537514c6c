"""Faults and what was promised for them: each function injects one kind and gives a Row.

kills, signals, lost processes, SLURM, flipped bits, hostile and odd input, short test sets
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch
from faults import (
    DDP,
    ENDLESS,
    NOTES,
    Training,
    chain,
    is_at,
    is_running,
    last,
    quiet,
    same_end,
    step_of,
    steps_lost,
)

from vitlit.errors import InputError
from vitlit.weights import checkpoint, durable_file

TESTS = Path(__file__).parents[1] / "tests"
SPARE = 5.0  # seconds that may pass after a timeout


class Row(NamedTuple):
    """A line of the table: what was done, what was promised, what was found, and whether kept."""

    fault: str
    promised: str
    found: str
    kept: bool


def killed_often(folder: Path, kills: int, seed: int) -> Row:
    """SIGKILL at random times, and the same command again, against a run left alone."""
    whole, cut = folder / "whole", folder / "cut"
    args = [ENDLESS, f"--trainer.max_steps={40 * kills}", "--run=one"]
    Training(whole, *args).end()
    draws, done, most, at = random.Random(seed), 0, 0, 0
    led: list[list[object]] = []  # batches whose updates the last checkpoint has
    for _ in range(kills):
        (cut / NOTES).unlink(missing_ok=True)
        training = Training(cut, *args)
        if not training.wait_for(partial(is_at, cut, at + draws.randint(1, 30))):
            break
        time.sleep(draws.random() * 0.05)
        training.kill()
        done, most, at = done + 1, max(most, steps_lost(cut)), step_of(cut)
        led += [entry for entry in chain(cut) if entry[0] <= at]
    (cut / NOTES).unlink(missing_ok=True)
    Training(cut, *args).end()
    led += chain(cut)
    equal, chained = same_end(whole, cut), led == chain(whole)
    found = f"{done} of {kills}, weights {'bit-equal' if equal else 'DIFFER'}; at most {most} "
    found += f"steps lost; the {len(led)} batches that led there "
    found += "are those of a run left alone" if chained else "DIFFER from a run left alone"
    promised = "bit-equal weights, at most 1 step lost each, no sample repeated or missed"
    kept = done == kills and equal and chained and most <= 1
    return Row(f"SIGKILL at {kills} random times of a run", promised, found, kept)


WRITER = """
import sys
from pathlib import Path
import torch
from vitlit.weights.durable_file import write_durable
path, number = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
while True:
    number += 1
    content = {"number": number, "weights": torch.full((1_000_000,), float(number))}
    write_durable(path, lambda file: torch.save(content, file), keep=True)
"""


def killed_saving(places: list[Path], kills: int) -> Row:
    """SIGKILL of processes that do nothing but save, in folders on two file systems."""
    draws, right, done = random.Random(0), 0, 0
    for place in places:
        file, number = place / "last.ckpt", 0
        for _ in range(kills):
            command = [sys.executable, "-c", WRITER, str(file), str(number)]
            writer = subprocess.Popen(
                command, stdout=subprocess.PIPE, env={**os.environ, **quiet()}
            )
            assert writer.stdout is not None
            writer.stdout.readline()
            wait_until(file.exists)
            time.sleep(draws.uniform(0.0, 0.5))
            writer.kill()
            writer.wait()
            writer.stdout.close()
            done += 1
            content = torch.load(file, weights_only=True) if durable_file.is_intact(file) else {}
            whole = bool(content) and bool((content["weights"] == content["number"]).all())
            right += whole and content["number"] >= number
            number = content.get("number", number)
    devices = len({place.stat().st_dev for place in places})
    found = f"{right} of {done} load, with all their numbers; {devices} file systems"
    promised = "each leaves a checkpoint that loads, none older than before"
    what = f"SIGKILL while saving, {done} times"
    return Row(what, promised, found, right == done and devices == 2)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)


def terminated(folder: Path, tries: int, args: list[str]) -> Row:
    """SIGTERM to the first process, the second, or both, in turn."""
    right, most, hung, draws = 0, 0, 0, random.Random(0)
    for number in range(tries):
        training = Training(folder / str(number), ENDLESS, *args)
        training.saves()
        time.sleep(draws.random() * 0.5)
        pids = training.pids() if args else [training.process.pid]
        for pid in pids if number % 3 == 2 else [pids[number % 3 % len(pids)]]:
            os.kill(pid, signal.SIGTERM)
        status = training.end()
        steps = re.findall(r"stopped by SIGTERM after step (\d+)", training.said())
        lost = steps_lost(training.folder)
        most, hung = max(most, lost), hung + (status == -1)
        gone = not any(map(is_running, pids))
        right += status == 143 and steps == [str(step_of(training.folder))] and lost <= 1 and gone
    kind = "two processes: to the first, the second, both" if args else "one process"
    found = f"{right} of {tries}; at most {most} steps lost; {hung} hung"
    promised = "all end with 143, at most 1 step lost, no hang"
    return Row(f"SIGTERM to {kind}, {tries} times", promised, found, right == tries)


def lost(folder: Path, signum: signal.Signals, rank: int, timeout: int) -> Row:
    """One of two processes is killed or stopped; how long the other takes to end."""
    training = Training(folder, ENDLESS, *DDP, f"--timeout_seconds={timeout}")
    training.saves()
    pids = training.pids()
    os.kill(pids[rank], signum)
    start = time.monotonic()
    while is_running(pids[1 - rank]) and time.monotonic() - start < 4 * timeout:
        training.process.poll()
        time.sleep(0.05)
    spent, ended = time.monotonic() - start, not is_running(pids[1 - rank])
    training.kill()
    named = f"lost rank {rank} " in training.said()
    found = f"{'ended' if ended else 'RAN ON'} after {spent:.1f} s, {'' if named else 'NOT '}named"
    what = f"{signum.name} to rank {rank} of two, timeout {timeout} s"
    promised = f"the other ends within {timeout + SPARE:.0f} s and names it"
    return Row(what, promised, found, ended and named and spent < timeout + SPARE)


def requeued(folder: Path) -> Row:
    """SIGUSR1 in a SLURM job whose scontrol is ours, and the identical command again."""
    tools = folder / "tools"
    tools.mkdir(parents=True)
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tools}/calls\n')
    (tools / "scontrol").chmod(0o755)
    task = {"SLURM_JOB_ID": "71", "SLURM_JOB_NAME": "vitlit", "SLURM_NTASKS": "1"}
    task |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    task |= {"SLURM_CPUS_PER_TASK": "1", "PATH": f"{tools}:{os.environ['PATH']}"}
    whole, cut, args = folder / "whole", folder / "cut", [ENDLESS, "--trainer.max_steps=400"]
    training = Training(cut, *args, **task)
    training.saves()
    training.process.send_signal(signal.SIGUSR1)
    statuses = [training.end()]
    at, lost = step_of(cut), steps_lost(cut)
    statuses += [Training(place, *args, **task).end() for place in (cut, whole)]
    calls = (tools / "calls").read_text().splitlines()
    equal, chained = same_end(whole, cut), chain(cut) == chain(whole)
    found = f"{len(calls)} call ({'; '.join(calls)}), {lost} steps lost at step {at} of 400; then "
    found += "bit-equal" if equal and chained else "weights or batches DIFFER"
    promised = "one call of scontrol requeue; the same command goes on bit-equal"
    kept = calls == ["requeue 71"] and equal and chained and lost <= 1 and 0 < at < 400
    return Row("SIGUSR1 to a SLURM job", promised, found, kept and statuses[1:] == [0, 0])


def flipped(folder: Path, count: int) -> Row:
    """Single bits flipped in the checkpoint of a training."""
    Training(folder, "--trainer.max_epochs=1").end()
    path = last(folder)
    assert path is not None
    checkpoint.read_checkpoint(path)
    good, refused, copy = path.read_bytes(), 0, folder / "a.ckpt"
    for bit in random.Random(0).sample(range(8 * len(good)), count):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(bad)
        try:
            checkpoint.read_checkpoint(copy)
        except InputError as error:
            refused += "damaged" in str(error)
    found = f"{refused} of {count} refused as damaged, {count - refused} loaded"
    what = f"one flipped bit in a checkpoint, {count} times"
    return Row(what, "none loads silently", found, refused == count)


def tested(what: str, promised: str, folder: Path, file: str, names: str) -> Row:
    """Cases of the test suite, each a test of its own. names: for pytest's -k."""
    folder.mkdir(parents=True)
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / file)]
    command += ["-k", names, f"--junitxml={report}", f"--basetemp={folder / 'tests'}"]
    environment = {**os.environ, **quiet()}
    subprocess.run(command, cwd=TESTS.parent, env=environment, check=False, capture_output=True)
    cases = list(ElementTree.parse(report).iter("testcase"))
    right = sum(case.find("./*") is None for case in cases)  # neither failed, broke nor skipped
    found = f"{right} of {len(cases)} cases as promised"
    return Row(f"{what} (`tests/{file}`)", promised, found, right == len(cases) > 0)


DRIVER = """
import sys
from vitlit.__main__ import main
from vitlit.data.split_builder import SplitBuilder

whole = SplitBuilder.splits


def shorter(self, names):
    found = whole(self, names)
    return {{name: type(s)(s.images, s.members[:{count}]) for name, s in found.items()}}


SplitBuilder.splits = shorter
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def counted(folder: Path, counts: tuple[int, ...]) -> Row:
    """Test images counted by two processes, and by one, and whether their scores agree."""
    Training(folder, "--trainer.max_epochs=1").end()
    right, found = 0, []
    for count in counts:
        (folder / "driver.py").write_text(DRIVER.format(count=count))
        test = ["driver.py", "test", "--ckpt_path=last", "--trainer.accelerator=cpu"]
        test += ["--data.batch_size=8", "--trainer.enable_progress_bar=false"]
        alone, both = reached_by(folder, test), reached_by(folder, [*test, *DDP])
        right += alone == both and both.endswith(f"({count} images)")
        found += re.findall(r"\((\d+) images\)", both) or ["none"]
    what = f"test of {', '.join(map(str, counts))} images on two processes"
    text = f"{right} of {len(counts)} equal; counted {', '.join(found)}"
    promised = "each counted once; scores as of one process"
    return Row(what, promised, text, right == len(counts))


def reached_by(folder: Path, command: list[str]) -> str:
    result = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **quiet()},
        capture_output=True,
        text=True,
        check=False,
    )
    # with the lines that go on beside the first
    found = re.findall(r"^reached .*(?:\n {2,}.*)*", result.stdout, re.MULTILINE)
    return "; ".join(" ".join(text.split()) for text in found)
