"""Faults on purpose: real signals to real processes, one and two of them."""

import multiprocessing
import multiprocessing.process
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import TORCHRUN, environment, free_port
from programs import save_program, small_cnn
from torch.distributed import TCPStore
from trainings import QUIET, SMALL, STATE, same

import vitlit
from vitlit.fault_tolerance import signals
from vitlit.fault_tolerance.signals import GRACE_SECONDS
from vitlit.training import slurm
from vitlit.training.checkpoint_callbacks import LastCheckpoint

pytestmark = [pytest.mark.faults, pytest.mark.first]

DDP = ["--trainer.strategy=ddp", "--trainer.devices=2"]
LONG = ["--trainer.max_epochs=10000", "--trainer.log_every_n_steps=5", "--ema.decay=0.9"]
FIT = [sys.executable, "-m", "vitlit", "fit", "--config=digits.yaml", "--trainer.accelerator=cpu"]
FIT += [*QUIET, *SMALL]
PATIENCE = 240.0  # seconds, for a machine that does other things


def own_environment(**changes: str) -> dict[str, str]:
    """Of a shell, in which the package is the one under test."""
    return environment(**changes) | {"PYTHONPATH": str(Path(vitlit.__file__).parent.parent)}


def last(folder: Path) -> Path:
    runs = sorted(folder.glob("lightning_logs/*/checkpoints/last.ckpt"), key=os.path.getmtime)
    return runs[-1] if runs else folder / "none"


def children(process: "subprocess.Popen[str]") -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


@contextmanager
def training(folder: Path, *args: str, **changes: str) -> Iterator["subprocess.Popen[str]"]:
    """A training of which last.ckpt exists already; nothing of it is left behind."""
    process = subprocess.Popen(
        [*FIT, *LONG, *args],
        cwd=folder,
        env=own_environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + PATIENCE
        while not last(folder).exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        yield process
    finally:
        for signum in (signal.SIGCONT, signal.SIGKILL):
            try:
                os.killpg(process.pid, signum)
            except ProcessLookupError:
                break
        process.communicate()


def saved(folder: Path) -> dict[str, object]:
    return torch.load(last(folder), weights_only=True)


def continues_to_the_same(folder: Path, *args: str) -> bool:
    """Whether going on from last.ckpt ends in the weights of a training that was not stopped."""
    steps = int(str(saved(folder)["global_step"])) + 7
    whole = folder / "whole"
    whole.mkdir()
    ends = ["--trainer.max_epochs=10000", f"--trainer.max_steps={steps}"]
    for place, more in ((whole, []), (folder, ["--ckpt_path=last"])):
        command = [*FIT, *LONG, *args, *ends, *more]
        subprocess.run(command, cwd=place, env=own_environment(), check=True, capture_output=True)
    first, second = saved(whole), saved(folder)
    return all(same(first.get(name), second.get(name)) for name in STATE)


CONSTANT = ["--model.schedule=constant", "--model.warmup_fraction=0", "--model.warmup_steps=5"]


SIGNALS = [
    (signal.SIGTERM, 143),
    pytest.param(signal.SIGUSR1, 143, marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, 143, marks=pytest.mark.slow),  # a terminal is closed
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("signum", "status"), SIGNALS)
def test_a_signal_saves_and_ends_the_training(
    tmp_path: Path, signum: signal.Signals, status: int
) -> None:
    with training(tmp_path, *CONSTANT) as process:
        process.send_signal(signum)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status
    assert f"stopped by {signum.name} after step {saved(tmp_path)['global_step']};" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_signal_to_the_loaders_too_saves_and_ends_the_training(tmp_path: Path) -> None:
    """As clusters and terminals send it. torch's own loaders die of it, and break the saving."""
    with training(tmp_path, *CONSTANT, "--data.num_workers=2") as process:
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert f"stopped by SIGTERM after step {saved(tmp_path)['global_step']};" in errors
    assert "Traceback" not in errors
    assert "DataLoader" not in errors


def wait_for_others(told: Connection, errors: Path, is_training: bool) -> None:
    """In C, where no handler is run."""
    with errors.open("wb") as file:
        os.dup2(file.fileno(), 2)
    callback = signals.Stopping(timedelta(seconds=60))
    callback._training = is_training
    with callback.listening():
        told.send("waiting")
        TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=timedelta(minutes=5))


@contextmanager
def deaf(errors: Path, *, is_training: bool) -> Iterator[multiprocessing.process.BaseProcess]:
    """Another process, forked, since a new one imports for seconds; its words are in ``errors``."""
    context = multiprocessing.get_context("fork")
    hearing, telling = context.Pipe(duplex=False)
    process = context.Process(target=wait_for_others, args=(telling, errors, is_training))
    process.start()
    try:
        assert hearing.recv() == "waiting"
        time.sleep(1.0)
        yield process
    finally:
        process.kill()
        process.join()


forked = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
quietly = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@forked
@quietly
@pytest.mark.parametrize(("signum", "status"), SIGNALS)
def test_a_process_that_waits_for_others_to_start_is_ended(
    tmp_path: Path, signum: signal.Signals, status: int
) -> None:
    errors = tmp_path / "errors.txt"
    with deaf(errors, is_training=False) as process:
        os.kill(process.pid or 0, signum)
        process.join(timeout=60)
        assert process.exitcode == status
    expected = f"vitlit: stopped by {signum.name} before the first step; nothing was saved"
    assert errors.read_text().strip() == expected


@pytest.mark.slow
@forked
@quietly
def test_a_step_that_takes_long_is_ended_by_a_later_signal_alone(tmp_path: Path) -> None:
    errors = tmp_path / "errors.txt"
    with deaf(errors, is_training=True) as process:
        process.terminate()
        time.sleep(GRACE_SECONDS + 1)
        assert process.is_alive()
        process.terminate()
        process.join(timeout=60)
        assert process.exitcode == 143
    assert errors.read_text().strip() == "vitlit: stopped by SIGTERM while it waited"


def test_a_signal_that_two_programs_pass_on_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM sends it to all processes, torchrun once more to those that it started."""
    now, ended = [100.0], []
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(os, "_exit", ended.append)
    callback = signals.Stopping(timedelta(seconds=60))
    callback._training = True
    for later, expected in ((0.0, []), (0.1, []), (1.5, [143])):
        now[0] = 100.0 + later
        callback._note(signal.SIGTERM, None)
        assert (callback.signum, ended) == (signal.SIGTERM, expected)


def test_a_checkpoint_that_is_being_written_is_let_be_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now, ended = [100.0], []
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(os, "_exit", ended.append)
    callback = signals.Stopping(timedelta(seconds=60))
    callback._training = callback._is_first = True
    callback._note(signal.SIGTERM, None)
    assert (
        "SIGTERM: saving after this step; a second signal ends without saving"
        in capfd.readouterr().err
    )
    last = LastCheckpoint(Path())
    last.is_saving, callback._lasts = True, [last]
    now[0] = 110.0
    callback._end_if_deaf(signal.SIGTERM, 105.0)  # the disk is slow
    callback._note(signal.SIGTERM, None)
    assert not ended
    assert "is being written" in capfd.readouterr().err
    callback._note(signal.SIGTERM, None)
    assert ended == [143]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_whose_launcher_is_gone_before_the_start_ends(
    tmp_path: Path, signum: signal.Signals
) -> None:
    command = [*FIT, *LONG, *DDP]
    first = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=own_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + PATIENCE
    while not children(first) and time.monotonic() < until:
        time.sleep(0.05)
    [child] = children(first)
    first.send_signal(signum)
    first.wait(timeout=60)
    while Path(f"/proc/{child}/cmdline").exists() and time.monotonic() < until:
        if not Path(f"/proc/{child}/cmdline").read_bytes():  # ended, and nobody has asked for it
            break
        time.sleep(0.2)
    assert time.monotonic() < until


@pytest.mark.slow
def test_workers_whose_torchrun_is_killed_save_and_end(tmp_path: Path) -> None:
    launch = [TORCHRUN, "--nproc_per_node=2", f"--master_port={free_port()}", "-m", "--"]
    launch += [*FIT[2:], *LONG, *CONSTANT, *DDP]
    agent = subprocess.Popen(
        launch, cwd=tmp_path, env=own_environment(), stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + PATIENCE
    while not last(tmp_path).exists() and time.monotonic() < until:
        time.sleep(0.1)
    agent.kill()
    _, errors = agent.communicate(timeout=PATIENCE)  # until the workers close it too
    assert f"stopped by SIGTERM after step {saved(tmp_path)['global_step']};" in errors


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], DDP], ids=["one", "two"])
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path: Path, processes: list[str]) -> None:
    with training(tmp_path, *CONSTANT, *processes) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert continues_to_the_same(tmp_path, *CONSTANT, *processes)


@pytest.mark.slow
@pytest.mark.parametrize("learning", ["muon", "teacher"])
def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path, learning: str) -> None:
    """From a checkpoint amid an epoch, with accumulation, mixing, clipping and an average."""
    words = ["--model.optimizer=muon", "--trainer.gradient_clip_val=1"]
    if learning == "teacher":
        torch.manual_seed(0)
        program = save_program(small_cnn(), tmp_path / "cnn.pt2")
        words = [f"--model.teacher={program}", "--model.teacher_temperature=2"]
    words += ["--trainer.accumulate_grad_batches=2", "--data.mixup=0.5", *CONSTANT]
    words += ["--checkpoints.every_n_steps=3"]
    with training(tmp_path, *words) as process:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(timeout=PATIENCE) == -signal.SIGKILL
    assert continues_to_the_same(tmp_path, *words)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["first", "second", "both"])
def test_a_signal_to_any_process_ends_all_of_them(tmp_path: Path, targets: str) -> None:
    with training(tmp_path, *CONSTANT, *DDP) as process:
        [child] = children(process)
        for name, pid in (("first", process.pid), ("second", child)):
            if targets in (name, "both"):
                os.kill(pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 143
        assert f"after step {saved(tmp_path)['global_step']};" in errors
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_is_named_and_ends_the_others(
    tmp_path: Path, signum: signal.Signals
) -> None:
    timeout = 20
    with training(tmp_path, *CONSTANT, *DDP, f"--timeout_seconds={timeout}") as process:
        [child] = children(process)
        os.kill(child, signum)
        start = time.monotonic()
        _, errors = process.communicate(timeout=PATIENCE)
        assert time.monotonic() - start < timeout + 5
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("vitlit: lost rank 1 ")


def fake_scontrol(folder: Path) -> Path:
    """A folder for PATH, in which each call of scontrol is written to ``calls``."""
    tools = folder / "tools"
    tools.mkdir()
    scontrol = tools / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tools}/calls\n')
    scontrol.chmod(0o755)
    return tools


ARRAY = {"SLURM_JOB_ID": "71", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.mark.slow
def test_slurm_is_asked_once_to_run_the_job_again(tmp_path: Path) -> None:
    tools = fake_scontrol(tmp_path)
    changes = {**ARRAY, "SLURM_JOB_NAME": "bash", "PATH": f"{tools}:{os.environ['PATH']}"}
    with training(tmp_path, *CONSTANT, **changes) as process:
        process.send_signal(signal.SIGUSR1)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (tools / "calls").read_text().splitlines() == ["requeue 70_3"]
    assert "requeued job 70_3" in errors


@pytest.mark.parametrize(("job", "number"), [({"SLURM_JOB_ID": "71"}, "71"), (ARRAY, "70_3")])
def test_a_job_is_run_again_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: dict[str, str], number: str
) -> None:
    tools = fake_scontrol(tmp_path)
    for name in ARRAY:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**job, "PATH": f"{tools}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    assert slurm.requeue(signal.SIGUSR1) == f"; requeued job {number}"
    assert (tools / "calls").read_text().splitlines() == [f"requeue {number}"]


@pytest.mark.slow
def test_a_job_that_runs_again_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """What srun starts: named after its job, the same command goes on and ends as one alone."""
    tools = fake_scontrol(tmp_path)
    task = {"SLURM_JOB_ID": "71", "SLURM_JOB_NAME": "vitlit", "SLURM_NTASKS": "1"}
    task |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    task |= {"SLURM_CPUS_PER_TASK": "1", "PATH": f"{tools}:{os.environ['PATH']}"}
    args = [*CONSTANT, "--trainer.max_steps=400"]
    with training(tmp_path, *args, **task) as process:
        process.send_signal(signal.SIGUSR1)
        _, errors = process.communicate(timeout=PATIENCE)
    assert "requeued job 71" in errors
    assert 0 < int(str(saved(tmp_path)["global_step"])) < 400
    whole = tmp_path / "whole"
    whole.mkdir()
    command = [*FIT, *LONG, *args]
    for place in (tmp_path, whole):
        environment = own_environment(**task)
        subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)
    first, second = saved(whole), saved(tmp_path)
    assert second["global_step"] == 400
    assert all(same(first.get(name), second.get(name)) for name in STATE)
    assert (tools / "calls").read_text().splitlines() == ["requeue 71"]


@pytest.mark.slow
def test_three_processes_go_on_bit_for_bit_where_buckets_stay_as_they_are(tmp_path: Path) -> None:
    strategy = "--trainer.strategy=ddp_find_unused_parameters_true"
    args = [*CONSTANT, strategy, "--trainer.devices=3"]
    with training(tmp_path, *args) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert continues_to_the_same(tmp_path, *args)
