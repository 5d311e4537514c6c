"""Settings of clusters that do not fit are named before a training starts."""

import pytest

from vitlit.__main__ import main
from vitlit.cli.advice import advice
from vitlit.training.slurm import launcher_of, node_traps, slurm_traps

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "vitlit", "SLURM_CPUS_PER_TASK": "8"}
TASK = {**JOB, "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}


def traps(environment: dict[str, str], processes: int, launched: bool = True) -> list[str]:
    return slurm_traps(environment, processes=processes, launched=launched)


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({}, 2),
        ({**TASK, "SLURM_NTASKS": "8"}, 8),
        ({**TASK, "SLURM_NTASKS": "1"}, 1),
        ({**JOB, "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, 1),
        ({**TASK, "SLURM_NTASKS": "2", "TORCHELASTIC_RUN_ID": "x"}, 8),
    ],
)
def test_settings_that_fit_are_passed_in_silence(
    environment: dict[str, str], processes: int
) -> None:
    assert traps(environment, processes) == []


def test_one_task_may_start_the_processes_of_its_devices_itself() -> None:
    assert traps({**JOB, "SLURM_NTASKS": "1"}, 4, launched=False) == []


def test_a_batch_script_without_srun_is_named() -> None:
    [text] = traps({**JOB, "SLURM_NTASKS": "8"}, 8, launched=False)
    assert "srun vitlit fit" in text


@pytest.mark.parametrize(("tasks", "processes"), [("8", 2), ("1", 4), ("2", 8)])
def test_tasks_that_differ_from_devices_are_named(tasks: str, processes: int) -> None:
    [text] = traps({**TASK, "SLURM_NTASKS": tasks}, processes)
    assert f"{tasks} tasks" in text
    assert f"is {processes}" in text


def test_nodes_that_nothing_brings_together_are_named() -> None:
    [text] = node_traps({}, nodes=2)
    assert "trainer.num_nodes 2, but MASTER_ADDR" in text
    assert node_traps({}, nodes=1) == node_traps({"MASTER_ADDR": "10.0.0.1"}, nodes=2) == []


def test_a_number_of_tasks_that_is_none_is_left_to_slurm() -> None:
    assert traps({**TASK, "SLURM_NTASKS": "two"}, 1) == []


def test_tasks_without_tasks_per_node_are_named() -> None:
    error = RuntimeError("You set `--ntasks=2` in your SLURM bash script, but …")
    assert "write --ntasks-per-node" in str(advice(error))


def test_tasks_of_one_core_are_named() -> None:
    environment = {name: value for name, value in TASK.items() if "CPUS" not in name}
    [text] = traps({**environment, "SLURM_NTASKS": "2"}, 2)
    assert "--cpus-per-task" in text


@pytest.mark.parametrize(
    ("environment", "name", "processes"),
    [
        ({}, "", 1),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4"}, "torchrun", 4),
        ({**TASK, "SLURM_NTASKS": "8"}, "srun with 8 tasks", 8),
        ({**TASK, "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, "", 1),  # a shell
        ({**JOB, "SLURM_NTASKS": "8"}, "", 1),  # the batch script
    ],
)
def test_the_launcher_is_known_by_its_variables(
    environment: dict[str, str], name: str, processes: int
) -> None:
    assert launcher_of(environment) == (name, processes)


@pytest.mark.parametrize("command", ["explain", "export", "probe", "anomaly", "compare", "inspect"])
def test_what_one_process_writes_is_not_written_by_several(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([command]) == 2
    wanted = f"{command} works in one process, and torchrun started 2; start it without torchrun"
    assert wanted in capsys.readouterr().err
