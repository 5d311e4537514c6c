"""Measure everything that a GPU alone can tell, part by part, in at most ten minutes.

Each part is a process with a time limit of its own; what it found so far is written after every
figure, and stays if the part fails or is ended. All goes to ``DIR/gpu.json``.

    python benchmarks/gpu.py --out DIR             # on a GPU
    python benchmarks/gpu.py --out DIR --small     # tiny, on any device: does everything run?
    python benchmarks/gpu.py --table DIR/gpu.json  # the figures as tables, into gpu.md
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure
import torch

HERE = Path(__file__).parent
LIMITS = {  # seconds of each part; what matters most comes first
    "device": 30,
    "step": 70,
    "compiled": 110,
    "tests": 80,
    "fits": 90,
    "resume": 80,
    "peers": 60,
    "commands": 50,
}
TITLES = {
    "device": "The device",
    "step": "A training step of cifar10.yaml, eager",
    "compiled": "Forward and backward, compiled",
    "tests": "The tests marked gpu",
    "fits": "Four epochs of cifar10.yaml on 50,000 random images",
    "resume": "Determinism, and a signal with its resume",
    "peers": "Our step against timm's",
    "commands": "test, explain and export",
}
PATIENCE = 10  # times the limits, with --small: starting Python on a busy CPU takes a while
SHORTEST = 5  # seconds; a part that has less is left out
TAIL = 1500  # characters kept of what a failed part printed
UNMEASURED = "not measured"


def run_part(name: str, small: bool, limit: float, folder: Path) -> dict[str, Any]:
    """Run a part in a session of its own; its status, seconds, figures, and words if it failed."""
    found, words = folder / f"{name}.json", folder / f"{name}.log"
    command = [sys.executable, str(HERE / "gpu_parts.py"), name, "--out", str(found)]
    command += ["--small"] if small else []
    start = time.monotonic()
    with words.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = f"exit {process.wait(timeout=limit)}"
        except subprocess.TimeoutExpired:
            status = f"ended after {limit:.0f} s"
        finally:
            if process.poll() is None:  # an interrupt comes here too
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    figures = json.loads(found.read_text()) if found.exists() else {}
    seconds = round(time.monotonic() - start, 1)
    part = {"status": status.replace("exit 0", "done"), "seconds": seconds, "figures": figures}
    if part["status"] != "done":
        part["words"] = words.read_text(errors="replace")[-TAIL:]
    return part


def write_now(path: Path, content: Any) -> None:
    """Write beside the file first, so that whoever reads it finds it whole."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(path)


def measure_parts(names: list[str], small: bool, minutes: float, out: Path) -> bool:
    """Run the parts while there is time; whether all of them are done."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    head = f"{datetime.now(UTC).date()}, {measure.device_name(kind, 1)}, {measure.packages()}"
    content: dict[str, Any] = {"head": head, "small": small, "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            limit = min(LIMITS[name] * (PATIENCE if small else 1), end - time.monotonic())
            if limit < SHORTEST:
                part = {"status": "no time was left", "seconds": 0, "figures": {}}
            else:
                part = run_part(name, small, limit, Path(folder))
            content["parts"][name] = part
            write_now(out / "gpu.json", content)
            print(f"{name}: {part['status']}, {part['seconds']} s", flush=True)
            for key, value in part["figures"].items():
                print(f"  {key}: {str(value)[:200]}", flush=True)
            if "words" in part:
                print(part["words"], flush=True)
    return all(part["status"] == "done" for part in content["parts"].values())


def tables(content: dict[str, Any] | None) -> str:
    """One table for each part; "not measured" where there is no figure."""
    text = "# GPU\n\n`python benchmarks/gpu.py --out DIR`, then `--table DIR/gpu.json`\n"
    text += f"\n{content['head']}\n" if content else ""
    for name, title in TITLES.items():
        part = (content or {"parts": {}})["parts"].get(name, {})
        text += f"\n## {title}\n\n"
        if not part.get("figures"):
            text += f"{UNMEASURED}\n"
            continue
        if part["status"] != "done":
            text += f"Incomplete: {part['status']}.\n\n"
        rows = [measure.row(["", "value"]), measure.row(["---", "---"])]
        rows += [measure.row([key, shown(value)]) for key, value in part["figures"].items()]
        text += "\n".join(rows) + "\n"
    return text


def shown(value: Any) -> str:
    """A figure as a cell: numbers with four digits, lists with a line each."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: UNMEASURED}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return "<br>".join(str(item).replace("|", "/") for item in value)
    return str(value).replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of gpu.json")
    parser.add_argument("--parts", choices=LIMITS, nargs="+", default=list(LIMITS))
    parser.add_argument("--minutes", type=float, default=9.5, help="limit for all parts together")
    parser.add_argument("--small", action="store_true", help="tiny, too small to keep")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write gpu.md from a gpu.json")
    args = parser.parse_args()
    if args.table:
        content = json.loads(args.table.read_text())
        if content["small"]:
            parser.error(f"{args.table} is of --small, which is too small to keep")
        (HERE / "gpu.md").write_text(tables(content))
        return
    if args.out is None:
        parser.error("give --out, or --table")
    if not args.small and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; give --small to see whether everything runs")
    sys.exit(0 if measure_parts(args.parts, args.small, args.minutes, args.out) else 1)


if __name__ == "__main__":
    main()
