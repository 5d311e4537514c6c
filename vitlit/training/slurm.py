"""SLURM and other clusters: warnings about settings that do not fit, requeueing, job names.

environment of the process, the trainer's devices and nodes -> sentences
"""

import os
import signal
import subprocess
from collections.abc import Mapping
from typing import Any, NamedTuple

from vitlit.errors import warn


class Launcher(NamedTuple):
    """A program that has started this one, and how many of it; the name is empty if none has."""

    name: str
    processes: int


def launcher_of(environment: Mapping[str, str]) -> Launcher:
    """The launcher, torchrun or srun, by the variables that it sets."""
    if "TORCHELASTIC_RUN_ID" in environment:
        return Launcher("torchrun", _number(environment.get("WORLD_SIZE")))
    in_step = {"SLURM_STEP_ID", "SLURM_PROCID"} & environment.keys()
    # those of this step: a shell within a job of several tasks is a step of one
    number = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS")
    tasks = _number(number) if in_step else 1
    return Launcher(f"srun with {tasks} tasks", tasks) if tasks > 1 else Launcher("", 1)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 1


def warn_of_cluster_traps(trainer: Any) -> None:
    """Warn of settings of the cluster that do not fit those of the trainer."""
    external = getattr(trainer.strategy, "cluster_environment", None)
    launched = external is not None and external.creates_processes_externally
    found = slurm_traps(os.environ, processes=trainer.world_size, launched=launched)
    if not launched:
        found += node_traps(os.environ, nodes=trainer.num_nodes)
    for text in found:
        warn(text)


def node_traps(environment: Mapping[str, str], *, nodes: int) -> list[str]:
    """Warnings for a process without a launcher, which would wait half an hour for the others."""
    if nodes == 1 or "MASTER_ADDR" in environment:
        return []
    return [
        f"trainer.num_nodes {nodes}, but MASTER_ADDR does not say where the nodes meet: start the "
        f"command on each by srun or torchrun, see docs/cluster.md"
    ]


def slurm_traps(environment: Mapping[str, str], *, processes: int, launched: bool) -> list[str]:
    """Warnings about SLURM settings that leave processes waiting for others, or devices unused.

    processes: devices times nodes, as the trainer counts them; launched: whether each process was
    started from outside, as srun does.
    """
    if "SLURM_JOB_ID" not in environment:
        return []
    # In an interactive job Lightning ignores SLURM and starts the processes itself.
    if environment.get("SLURM_JOB_NAME") in INTERACTIVE_JOBS:
        return []
    tasks = _number(environment.get("SLURM_NTASKS"))
    # The batch script itself has SLURM_NTASKS but no step; what srun starts has both.
    in_step = "SLURM_STEP_ID" in environment or "SLURM_PROCID" in environment
    by_torchrun = "TORCHELASTIC_RUN_ID" in environment  # one task a node is right there
    found = []
    if tasks > 1 and not in_step and not by_torchrun:
        found.append(
            f"SLURM has {tasks} tasks, but this is not one of them: write `srun vitlit fit ...` in "
            f"the batch script"
        )
    elif tasks != processes and not by_torchrun and (launched or tasks > 1):
        found.append(
            f"SLURM has {tasks} tasks, but trainer.devices x trainer.num_nodes is {processes}: "
            f"they must be equal, with --ntasks-per-node equal to --trainer.devices"
        )
    # Since SLURM 22.05 srun ignores the job's --cpus-per-task, and reads SRUN_CPUS_PER_TASK.
    cores = environment.get("SLURM_CPUS_PER_TASK")
    if in_step and cores is None and processes > 1:
        found.append(
            "SLURM gives each task one core, since the job has no --cpus-per-task: data are then "
            "loaded slowly; give it in the batch script, and export SRUN_CPUS_PER_TASK"
        )
    return found


def requeue(signum: int) -> str:
    """Ask SLURM to run the job again after SIGUSR1; returns what happened, to end a message with.

    The text is empty outside SLURM, and for other signals: after SIGTERM the job was cancelled, or
    SLURM requeues a preempted one by itself; after SIGHUP a terminal was closed.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or signal.Signals(signum).name != "SIGUSR1":  # Windows has no such name
        return ""
    # SLURM_JOB_ID of an array task is a number of its own; ARRAY_TASK requeues this task alone.
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        reason = " ".join(said.decode(errors="replace").split()) or str(error)
        return f"; job {job} could not be requeued: {reason}"
    return f"; requeued job {job}"


# Names of SLURM jobs in which a person types commands, as Lightning knows them.
INTERACTIVE_JOBS = ("bash", "interactive")


def job_name(environment: Mapping[str, str]) -> str | None:
    """The SLURM job and array task that this process belongs to, as one name; None outside a job.

    A requeued job keeps its number, and so its name.
    """
    job = environment.get("SLURM_JOB_ID")
    if not job or environment.get("SLURM_JOB_NAME") in INTERACTIVE_JOBS:
        return None
    if task := environment.get("SLURM_ARRAY_TASK_ID"):
        return f"{environment.get('SLURM_ARRAY_JOB_ID', job)}_{task}"
    return job
