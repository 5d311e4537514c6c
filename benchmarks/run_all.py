"""Run every speed benchmark on this machine's best device, and keep tables and JSON.

python benchmarks/run_all.py            # replaces the tables beside the scripts
python benchmarks/run_all.py --quick    # a few minutes, too short to keep
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = ("train_step.py", "data_path.py", "loop_overhead.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for the JSON files")
    parser.add_argument("--minutes", type=float, default=10, help="limit for each script")
    args = parser.parse_args()
    failed = []
    for script in SCRIPTS:
        command = [sys.executable, str(HERE / script), "--quick" if args.quick else "--write"]
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            command += ["--json", str(args.out / Path(script).with_suffix(".json").name)]
        try:
            status = subprocess.run(command, timeout=60 * args.minutes, check=False).returncode
        except subprocess.TimeoutExpired:
            print(f"{script} took more than {args.minutes} minutes", file=sys.stderr)
            status = 1
        failed += [script] if status else []
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
