"""Mutation run: one small fault at a time, and the fast tests that reach it. Do they notice?

    python benchmarks/mutation.py map                      # which tests reach which line: once
    python benchmarks/mutation.py run --count 330 --seed 0 # goes on where it was ended
    python benchmarks/mutation.py run --module 'model/*.py' --count 50
    python benchmarks/mutation.py run --again              # those that survived, after new tests
    python benchmarks/mutation.py table

Everything happens in copies of the tree below ``--work``. A process that has imported torch and the
test libraries, but nothing of vitlit, is forked for each run of pytest. It runs the tests in the
mutated module's mirror first, then others that reach the line, the quickest first, until one fails
or their usual time adds up to ``--seconds``. Too much CPU time counts as noticed, apart.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from mutants import MODULES, Mutant, sample

ROOT = Path(__file__).resolve().parents[1]
FAST = "not slow and not gpu and not network and not browser"
PARTS = ("vitlit", "tests", "benchmarks", "configs", "docs", "lightning_logs", ".github", ".ci")
PRELOADED = ("torch", "torchvision.transforms.v2", "pytorch_lightning.cli", "torchmetrics")
PRELOADED += ("jsonargparse", "matplotlib.figure", "matplotlib.backends.backend_agg", "yaml")
PRELOADED += ("torch.utils.tensorboard", "numpy", "PIL.Image", "safetensors.torch", "unittest.mock")
PRELOADED += ("timm", "transformers", "sklearn.linear_model", "torch.export", "torch._dynamo")
FIRST = 5.0  # seconds of tests that are collected and run before the others
QUIET = ["-q", "-x", "--tb=line", "-p", "no:cacheprovider", "-p", "no:cov"]
QUIET += ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
WALL = 15  # a run may take so many times its CPU time: the machine has other work

Result = dict[str, Any]  # a row of the results file


def copy_tree(folder: Path) -> Path:
    """The repository's files, without what git ignores."""
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "version_*", ".*_cache")
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy2(path, folder)
    return folder


class Reach:
    """Which tests reach a line, and how long each takes, from runs of the tests with coverage."""

    def __init__(self, folder: Path) -> None:
        from coverage import CoverageData

        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[int, set[str]]] = {}  # module -> line -> tests
        for path in sorted(folder.glob("*.xml")):
            for case in ElementTree.parse(path).iter("testcase"):
                test = node_id(case.attrib["classname"], case.attrib["name"])
                if not list(case.iter("failure")) and not list(case.iter("error")):
                    self.seconds[test] = float(case.attrib["time"])
        for path in sorted(folder.glob("*.coverage")):
            data = CoverageData(str(path))
            data.read()
            for measured in data.measured_files():
                module = "vitlit/" + measured.rpartition("/vitlit/")[2]
                lines = self.lines.setdefault(module, {})
                for line, contexts in data.contexts_by_lineno(measured).items():
                    tests = (context.rpartition("|")[0] for context in contexts)
                    lines.setdefault(line, set()).update(test for test in tests if test)

    def tests(self, mutant: Mutant) -> list[str]:
        """Those of the mirror first, then by time.

        What runs at import, or in a fixture, is put down to the first test: so all count that reach
        any line of the module, those that reach this one before the others.
        """
        lines = self.lines.get(mutant.module, {})
        near = lines.get(mutant.line, set())
        every = set().union(*lines.values()) if lines else set()
        dotted = mutant.module.removesuffix(".py").replace("/", ".")
        users = {file for file, text in test_sources().items() if f"{dotted} import" in text}
        every |= {test for test in self.seconds if test.partition("::")[0] in users}  # constants
        stem = Path(mutant.module).stem
        package = Path(mutant.module).parent.name

        def rank(test: str) -> tuple[bool, bool, float]:
            own = f"tests/{package}/test_{stem}" in test
            return (test not in near, not own, self.seconds[test])

        return sorted((test for test in every if test in self.seconds), key=rank)


@cache
def test_sources() -> dict[str, str]:
    paths = ROOT.glob("tests/**/test_*.py")
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def node_id(classname: str, name: str) -> str:
    return classname.replace(".", "/") + ".py::" + name


def batches(tests: list[str], seconds: dict[str, float], limit: float) -> list[list[str]]:
    """The first few, then the others within the limit; each sorted so that files stay together."""
    parts: list[list[str]] = [[], []]
    spent = 0.0
    for test in tests:
        if spent + seconds[test] > limit and parts[0]:
            continue
        spent += seconds[test]
        parts[spent > FIRST and bool(parts[0])].append(test)
    order = {test: place for place, test in enumerate(tests)}
    found = []
    for part in filter(None, parts):
        files: dict[str, int] = {}
        for test in part:
            files.setdefault(test.partition("::")[0], order[test])
        found.append(sorted(part, key=lambda test: (files[test.partition("::")[0]], order[test])))
    return found


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
            cpu = 30 + 4 * sum(reach.seconds.get(test, FIRST) for test in part)
            row["verdict"], row["by"] = run_tests(copy, part, cpu)
            if row["verdict"] != "survived":
                break
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # compiled files are by time
    row["tests"], row["wall"] = len(tests), round(time.monotonic() - start, 1)
    return row


@cache
def own_copy(work: Path) -> Path:
    """Of this worker; compiled beforehand, since mutants' runs write nothing compiled."""
    copy = copy_tree(work / f"copy-{os.getpid()}")
    subprocess.run([sys.executable, "-m", "compileall", "-q", "vitlit"], cwd=copy, check=True)
    return copy


def work_on(job: tuple[Mutant, Path, float, list[str]]) -> Result:
    mutant, work, limit, given = job
    return try_mutant(mutant, own_copy(work), REACH[0], limit, given)


REACH: list[Reach] = []  # set before the workers are forked


def read_results(path: Path) -> list[Result]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(args: argparse.Namespace) -> None:
    modules = tuple(args.module or MODULES)
    mutants = sample(ROOT, args.count, args.seed, modules)
    results = args.work / args.results
    done = {row["number"]: row for row in read_results(results)}
    if args.again:
        alive = {number for number, row in done.items() if row["verdict"] == "survived"}
        mutants = [mutant for mutant in mutants if mutant.number in alive]
    else:
        mutants = [mutant for mutant in mutants if mutant.number not in done]
    if args.numbers:
        mutants = [mutant for mutant in mutants if mutant.number in args.numbers]
    REACH.append(Reach(args.work / "map"))
    for name in PRELOADED:
        importlib.import_module(name)
    jobs = [(mutant, args.work, args.seconds, args.tests) for mutant in mutants]
    pool = multiprocessing.get_context("fork").Pool(args.jobs)
    with pool, results.open("a", encoding="utf-8") as file:
        for row in pool.imap_unordered(work_on, jobs):
            print(json.dumps(row), file=file, flush=True)
            print(
                row["number"], row["module"], row["line"], row["verdict"], row["wall"], flush=True
            )


def measure(args: argparse.Namespace) -> None:
    """Run the fast tests with coverage, a folder at a time: one that is lost costs little."""
    copy = copy_tree(args.work / "measured")
    (args.work / "map").mkdir(exist_ok=True)
    packages = sorted(path for path in (ROOT / "tests").iterdir() if path.is_dir())
    every = [f"tests/{path.name}" for path in packages if any(path.glob("test_*.py"))]
    for part in args.part or [*every, *(f"tests/{p.name}" for p in ROOT.glob("tests/test_*.py"))]:
        target = args.work / "map" / part.replace("/", "_")
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(args.jobs), "-m", FAST, part]
        command += ["--cov=vitlit", "--cov-context=test", "--cov-report="]
        command += [f"--junitxml={target}.xml", "-o", "junit_duration_report=total"]
        environment["COVERAGE_FILE"] = f"{target}.coverage"
        subprocess.run(command, cwd=copy, env=environment, check=False)


def table(args: argparse.Namespace) -> None:
    """Counts by package, and the mutants that no test noticed."""
    latest = {row["number"]: row for row in read_results(args.work / args.results)}
    rows = [latest[number] for number in sorted(latest)]
    print("| package | mutants | killed | by time | survived | errors |\n|---|---|---|---|---|---|")
    groups: dict[str, Callable[[Result], bool]] = {
        name: lambda row, name=name: row["module"].split("/")[1] == name
        for name in sorted({row["module"].split("/")[1] for row in rows})
    }
    for name, belongs in {**groups, "all": lambda row: True}.items():
        counts = Counter(row["verdict"] for row in rows if belongs(row))
        cells = [
            name,
            sum(counts.values()),
            *map(counts.get, ("killed", "timeout", "survived", "error")),
        ]
        print("|", " | ".join(str(cell or 0) for cell in cells), "|")
    print("\nkinds:", dict(Counter(row["kind"] for row in rows)))
    for row in rows:
        if row["verdict"] != "killed":
            print(f"\n{row['number']} {row['module']}:{row['line']} {row['verdict']}")
            print(row["change"])


def main(argv: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/vitlit-mutation"), help="copies, results"
    )
    parser.add_argument("--jobs", type=int, default=2)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("map", help="measure which tests reach which line")
    one.add_argument("part", nargs="*", help="folders or files of tests; all, if none is given")
    one.set_defaults(function=measure)
    two = commands.add_parser("run", help="try mutants")
    two.add_argument("--count", type=int, default=330)
    two.add_argument("--seed", type=int, default=0)
    two.add_argument("--module", action="append", help="pattern below vitlit/; may be repeated")
    two.add_argument(
        "--seconds", type=float, default=20, help="of tests for each mutant, usual time"
    )
    two.add_argument("--again", action="store_true", help="only those that survived so far")
    two.add_argument("--numbers", type=int, nargs="*", help="only these")
    two.add_argument("--tests", nargs="*", default=[], help="run these instead: files or tests")
    two.add_argument("--results", default="results.jsonl")
    two.set_defaults(function=run)
    three = commands.add_parser("table", help="counts, and survivors")
    three.add_argument("--results", default="results.jsonl")
    three.set_defaults(function=table)
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    args.function(args)


if __name__ == "__main__":
    main()
