"""Runs the tests on one mutant: in a forked process, with limits, in a copy of the tree.

mutant, tests -> survived, killed, timeout or error, and the test that noticed
"""

import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mutants import Mutant
from reach import FIRST_SECONDS, Reach, batches

FAST = "not slow and not gpu and not network and not browser"
QUIET = ["-q", "-x", "--tb=line", "-p", "no:cacheprovider", "-p", "no:cov"]
QUIET += ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
WALL = 15  # a run may take so many times its CPU time: the machine has other work

Result = dict[str, Any]  # a row of the results file


class Recorder:
    """Writes down the first test that fails, and why."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.path.exists():
            self.path.write_text(f"{report.nodeid}\n{report.longreprtext[-300:]}", encoding="utf-8")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.path.exists():
            self.path.write_text(f"{report.nodeid}\n{report.longreprtext[-300:]}", encoding="utf-8")


def pytest_in_child(copy: Path, tests: list[str], cpu: float) -> None:
    """Never returns."""
    os.setsid()
    os.chdir(copy)
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu), int(cpu) + 5))
    output = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path[:0] = [str(copy), str(copy / "tests" / "helpers")]
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONPATH=str(copy), OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    options = [*QUIET, "-m", FAST, f"--basetemp={copy}-tmp", f"--rootdir={copy}"]
    try:
        status = int(pytest.main([*options, *tests], plugins=[Recorder(copy / "failed.txt")]))
    except BaseException:  # whatever a mutant does, its run failed
        traceback.print_exc()
        status = 3
    sys.stdout.flush()
    os._exit(status)


def run_tests(copy: Path, tests: list[str], cpu: float) -> tuple[str, str]:
    """``survived``, ``killed`` or ``timeout``, and the test that failed."""
    failed = copy / "failed.txt"
    failed.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        pytest_in_child(copy, tests, cpu)
    end, status = time.monotonic() + WALL * cpu, None
    while status is None and time.monotonic() < end:
        done, found = os.waitpid(child, os.WNOHANG)
        status = found if done else None
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # with what the tests started
    if status is None:
        os.waitpid(child, 0)
        return "timeout", ""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return "timeout", ""
    if status == 0:
        return "survived", ""
    if failed.exists():
        return "killed", failed.read_text(encoding="utf-8")
    if os.WIFSIGNALED(status):
        return "killed", f"signal {os.WTERMSIG(status)}"
    return "error", f"pytest ended with {os.waitstatus_to_exitcode(status)}"  # ours: look at it


def try_mutant(mutant: Mutant, copy: Path, reach: Reach, limit: float, given: list[str]) -> Result:
    """One row of the results; the copy is left as it was. given: tests to run instead."""
    path = copy / mutant.module
    source, times = path.read_text(encoding="utf-8"), path.stat()
    tests = given or reach.tests(mutant)
    row: Result = {"number": mutant.number, "module": mutant.module, "line": mutant.line}
    row |= {"kind": mutant.kind, "change": mutant.change(source), "verdict": "survived", "by": ""}
    start = time.monotonic()
    path.write_text(mutant.code, encoding="utf-8")
    try:
        for part in [given] if given else batches(tests, reach.seconds, limit):
            cpu = 30 + 4 * sum(reach.seconds.get(test, FIRST_SECONDS) for test in part)
            row["verdict"], row["by"] = run_tests(copy, part, cpu)
            if row["verdict"] != "survived":
                break
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # compiled files are by time
    row["tests"], row["wall"] = len(tests), round(time.monotonic() - start, 1)
    return row
