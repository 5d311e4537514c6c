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
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from mutant_runs import FAST, Result, try_mutant
from mutants import MODULES, Mutant, sample
from reach import ROOT, Reach

PARTS = ("vitlit", "tests", "benchmarks", "configs", "docs", "lightning_logs", ".github", ".ci")
PRELOADED = ("torch", "torchvision.transforms.v2", "pytorch_lightning.cli", "torchmetrics")
PRELOADED += ("jsonargparse", "matplotlib.figure", "matplotlib.backends.backend_agg", "yaml")
PRELOADED += ("torch.utils.tensorboard", "numpy", "PIL.Image", "safetensors.torch", "unittest.mock")
PRELOADED += ("timm", "transformers", "sklearn.linear_model", "torch.export", "torch._dynamo")


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
