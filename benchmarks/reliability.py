"""Faults on purpose, against promises: kills, signals, lost processes, hostile and odd input.

python benchmarks/reliability.py --write                       # half an hour on two cores
python benchmarks/reliability.py --quick --only SIGKILL        # a look at some rows

Every row is real processes, signals and files on this machine, with the shipped digits. The
exit status is 1 where a promise was not kept.
"""

import argparse
import datetime
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from faults import DDP
from promises import (
    Row,
    counted,
    flipped,
    killed_often,
    killed_saving,
    lost,
    requeued,
    terminated,
    tested,
)

TABLE = Path(__file__).with_suffix(".md")
OTHER = "/dev/shm"  # a second file system
PAYLOADS = "hostile or environment or flag or address"
IMAGES = "pixels or no_image or predict or fit"


def jobs(folder: Path, other: Path, *, quick: bool, seed: int) -> dict[str, Callable[[], Row]]:
    """The rows to be, by short names; two folders, on different file systems."""
    kills, tries, saves = (3, 3, 2) if quick else (20, 9, 12)
    lose = {
        f"{signum.name} rank {rank}": partial(
            lost, folder / f"{signum.name}-{rank}", signum, rank, timeout=15
        )
        for signum in (signal.SIGKILL, signal.SIGSTOP)
        for rank in (1, 0)
    }
    return {
        **lose,
        "SLURM": partial(requeued, folder / "slurm"),
        "payloads": partial(
            tested,
            "hostile checkpoints, weights, configs, addresses and environments",
            "refused; nothing executed, nothing imported",
            folder / "payloads",
            "test_malicious.py",
            PAYLOADS,
        ),
        "bits": partial(flipped, folder / "bits", 200),
        "mistakes": partial(
            tested,
            "wrong command lines and configs",
            "status 2, one message of at most 5 lines that names the value",
            folder / "mistakes",
            "test_mistakes.py",
            "one_short_message or real_process",
        ),
        "images": partial(
            tested,
            "odd images",
            "read as a viewer shows them or refused by name; predict goes on, fit refuses",
            folder / "images",
            "test_odd_images.py",
            IMAGES,
        ),
        "DDP": partial(counted, folder / "counted", (61, 62, 63, 1)),
        "SIGKILL": partial(killed_often, folder / "killed", kills, seed),
        "saving": partial(killed_saving, [folder, other], saves),
        "SIGTERM one": partial(terminated, folder / "one", tries, []),
        "SIGTERM two": partial(terminated, folder / "two", tries, DDP),
    }


def tried(name: str, job: Callable[[], Row]) -> Row:
    """The row of a job; one that breaks is a promise not kept."""
    try:
        return job()
    except Exception as error:
        traceback.print_exc()
        return Row(name, "a result", f"the script broke: {type(error).__name__}", False)


def table(rows: list[Row], minutes: float) -> str:
    day = datetime.datetime.now(tz=datetime.UTC).date()
    kept = sum(row.kept for row in rows)
    lines = [
        "# Reliability",
        "",
        "Faults on purpose, in real processes. `python benchmarks/reliability.py --write` makes",
        f"this table in {minutes:.0f} minutes; {day}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {os.cpu_count()} CPU cores.",
        f"{kept} of {len(rows)} promises kept.",
        "",
        "| fault | promised | found | kept |",
        "|---|---|---|---|",
        *(
            f"| {row.fault} | {row.promised} | {row.found} | {'yes' if row.kept else '**NO**'} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write reliability.md")
    parser.add_argument("--quick", action="store_true", help="fewer tries")
    parser.add_argument("--seed", type=int, default=0, help="decides the times of the kills")
    parser.add_argument("--only", help="rows whose short name has this in it")
    args = parser.parse_args()
    if args.write and (args.quick or args.only):
        parser.error("--write is for all rows, each whole")
    rows: list[Row] = []
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory(dir=OTHER) as other,
    ):
        for short, job in jobs(Path(name), Path(other), quick=args.quick, seed=args.seed).items():
            if args.only and args.only not in short:
                continue
            start = time.monotonic()
            rows.append(tried(short, job))
            fault, promised, found, kept = rows[-1]
            print(fault, promised, found, "yes" if kept else "NO", sep=" | ", end=" ")
            print(f"({short}: {time.monotonic() - start:.0f} s)", flush=True)
    if args.write:
        TABLE.write_text(table(rows, (time.monotonic() - begin) / 60), encoding="utf-8")
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
