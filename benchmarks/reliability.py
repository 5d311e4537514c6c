"""Faults on purpose, against promises: kills, signals, lost processes, hostile and odd input.

python benchmarks/reliability.py --write                       # half an hour on two idle cores
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
from collections.abc import Callable, Iterable
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
from surroundings import changed_data, closed_output, full_disk, small_memory, stopped

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
            "end_to_end/test_malicious.py",
            PAYLOADS,
        ),
        "bits": partial(flipped, folder / "bits", 200),
        "mistakes": partial(
            tested,
            "wrong command lines and configs",
            "status 2, one message of at most 5 lines that names the value",
            folder / "mistakes",
            "end_to_end/test_mistakes.py",
            "one_short_message or real_process",
        ),
        "images": partial(
            tested,
            "odd images",
            "read as a viewer shows them or refused by name; predict goes on, fit refuses",
            folder / "images",
            "images/test_odd_images.py",
            IMAGES,
        ),
        "DDP": partial(counted, folder / "counted", (61, 62, 63, 1)),
        "SIGKILL": partial(killed_often, folder / "killed", kills, seed),
        "saving": partial(killed_saving, [folder, other], saves),
        "SIGTERM one": partial(terminated, folder / "one", tries, []),
        "SIGTERM two": partial(terminated, folder / "two", tries, DDP),
        "changed data": partial(changed_data, folder / "changed"),
        "shared memory": partial(small_memory, folder / "memory"),
        "full disk": partial(full_disk, folder / "full"),
        "closed output": partial(closed_output, folder / "closed"),
        "stopped": partial(stopped, folder / "stopped", 1),
    }


def tried(name: str, job: Callable[[], Row]) -> Row:
    """The row of a job; one that breaks is a promise not kept."""
    try:
        return job()
    except Exception as error:
        traceback.print_exc()
        return Row(name, "a result", f"the script broke: {type(error).__name__}", False)


def line(name: str, row: Row) -> str:
    """Of the table."""
    day = datetime.datetime.now(tz=datetime.UTC).date()
    kept = "yes" if row.kept else "**NO**"
    return f"| `{name}` | {row.fault} | {row.promised} | {row.found} | {kept} | {day} |"


def lines_of(text: str) -> dict[str, str]:
    """The lines of a table, by the short names of their rows."""
    return {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}


def table(names: Iterable[str], found: dict[str, str]) -> str:
    """All rows that there are to be; those that were not run count as not kept."""
    rows = [found.get(name, f"| `{name}` | | | not run | **NO** | |") for name in names]
    kept = sum("| yes |" in row for row in rows)
    lines = [
        "# Reliability",
        "",
        "Faults on purpose, in real processes. `python benchmarks/reliability.py --write` makes",
        "this table, `--only ROW --write` a row of it again.",
        f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPU "
        f"cores. {kept} of {len(rows)} promises kept.",
        "",
        "| row | fault | promised | found | kept | day |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write reliability.md, row by row")
    parser.add_argument("--quick", action="store_true", help="fewer tries")
    parser.add_argument("--seed", type=int, default=0, help="decides the times of the kills")
    parser.add_argument("--only", default="", help="the row of this name, or rows with this in it")
    args = parser.parse_args()
    if args.write and args.quick:
        parser.error("--write is for rows with all their tries")
    found = lines_of(TABLE.read_text(encoding="utf-8")) if args.only and TABLE.exists() else {}
    all_kept = True
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory(dir=OTHER) as other,
    ):
        todo = jobs(Path(name), Path(other), quick=args.quick, seed=args.seed)
        for short in [args.only] if args.only in todo else [s for s in todo if args.only in s]:
            start = time.monotonic()
            row = tried(short, todo[short])
            all_kept = all_kept and row.kept
            found[short] = line(short, row)
            print(found[short], f"{time.monotonic() - start:.0f} s", flush=True)
            if args.write:
                TABLE.write_text(table(todo, found), encoding="utf-8")
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main())
