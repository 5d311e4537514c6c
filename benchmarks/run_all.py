"""Run every benchmark on this machine's best device, and keep tables and JSON.

    python benchmarks/run_all.py               # replaces the tables beside the first three scripts
    python benchmarks/run_all.py --out DIR     # and copies them there, with the figures as JSON
    python benchmarks/run_all.py --quick       # a few minutes, too short to keep

A script that takes more than ``--minutes`` is ended, and keeps what it had measured by then. Three
splits of the digits are held against the ten that README states, and replace none of their figures.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = (  # what matters most on a machine that is lent for minutes comes first
    ["train_step.py"],
    ["loop_overhead.py"],
    ["data_path.py"],
    ["recipe.py", "digits.yaml", "--split-seeds", "0", "1", "2"],
)

ENDINGS = {"recipe.py": "--verify"}  # in place of --write


def run(command: list[str], minutes: float) -> int:
    """The exit status; past the limit, the script and the processes that it started are ended."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        print(f"ended after {minutes:g} minutes: {' '.join(command)}", file=sys.stderr)
        return 1
    finally:
        if process.poll() is None:  # an interrupt comes here too
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for copies of the tables, and JSON")
    parser.add_argument("--minutes", type=float, default=10, help="limit for each script")
    args = parser.parse_args()
    failed, start = [], time.time()
    for script, *options in COMMANDS:
        command = [sys.executable, str(HERE / script), *options]
        command.append("--quick" if args.quick else ENDINGS.get(script, "--write"))
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            command += ["--json", str(args.out / Path(script).with_suffix(".json").name)]
        failed += [script] if run(command, args.minutes) else []
        table = HERE / Path(script).with_suffix(".md").name
        if args.out and table.exists() and table.stat().st_mtime > start:  # not an older one
            shutil.copy(table, args.out)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
