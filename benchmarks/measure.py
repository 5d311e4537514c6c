"""What the benchmarks share: taking turns, ratio tables, JSON, and the machine's name.

calls by name -> seconds by name, one per round -> a Markdown table and a list of records
"""

import argparse
import json
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

Seconds = dict[str, list[float]]  # of each contestant, one per round
UNFINISHED = "The run was cut short: cells are missing."


@dataclass
class Cell:
    """One comparison: who took how long for ``items`` things, and against whom."""

    title: str
    seconds: Seconds
    reference: str
    items: int
    unit: str = "images"
    extra: dict[str, dict[str, str]] = field(default_factory=dict)  # column -> contestant -> text

    def ratios(self, name: str) -> list[float]:
        """How many times as fast as the reference, in each round."""
        pairs = zip(self.seconds[name], self.seconds[self.reference], strict=True)
        return [theirs / own for own, theirs in pairs]

    def ratio(self, name: str) -> float:
        return median(self.seconds[self.reference]) / median(self.seconds[name])

    def table(self) -> str:
        heads = [
            "",
            f"{self.unit}/s",
            "ms",
            f"times {self.reference}",
            "in the rounds",
            *self.extra,
        ]
        lines = [f"### {self.title}", "", row(heads), row(["---"] * len(heads))]
        for name, own in self.seconds.items():
            low, mid, high = torch.tensor(self.ratios(name)).quantile(
                torch.tensor([0.25, 0.5, 0.75])
            )
            spread = f"{mid:.2f} ({low:.2f} to {high:.2f})"
            speed = self.items / median(own)
            cells = [name, f"{speed:,.{0 if speed >= 10 else 2}f}", f"{1e3 * median(own):.2f}"]
            cells += [f"{self.ratio(name):.2f}", spread]
            lines.append(row(cells + [texts.get(name, "") for texts in self.extra.values()]))
        return "\n".join(lines) + "\n"

    def records(self) -> list[dict[str, Any]]:
        return [
            {
                "name": f"{self.title}: {name}",
                "value": self.items / median(own),
                "unit": f"{self.unit}/s",
                "ratio_to": self.reference,
                "ratio": self.ratio(name),
            }
            for name, own in self.seconds.items()
        ]


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def take_turns(
    calls: dict[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int,
    device: str,
    alone: bool = True,
) -> Seconds:
    """Every round lets each call run once, in rotating order, so that noise meets all alike.

    The warm-up rounds come first and are not in the result; the device has finished its work when
    a time is taken. alone: no other process works for a call. Then one thread on the CPU is timed
    by its processor time, which other programs do not change as much as the time of day.
    """
    one_thread = alone and device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if one_thread else time.perf_counter
    names = list(calls)
    seconds: Seconds = {name: [] for name in names}
    for i in range(warmup + rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            wait(device)
            start = clock()
            calls[name]()
            wait(device)
            if i >= warmup:
                seconds[name].append(clock() - start)
    return seconds


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def parser(doc: str, *, rounds: int, warmup: int = 1) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    found = argparse.ArgumentParser(description=doc.split("\n", 1)[0])
    best = "cuda" if torch.cuda.is_available() else "cpu"
    found.add_argument("--device", choices=("cpu", "cuda"), default=best)
    found.add_argument("--threads", type=int, default=1, help="torch's threads on the CPU")
    found.add_argument("--rounds", type=int, default=rounds, help="timed rounds")
    found.add_argument("--warmup", type=int, default=warmup, help="rounds before them")
    found.add_argument("--quick", action="store_true", help="under a minute, too short to keep")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    found.add_argument("--write", action="store_true", help="replace the table beside the script")
    return found


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if min(args.threads, args.rounds, args.warmup + 1) < 1:
        parser.error("--threads and --rounds must be 1 or more, --warmup 0 or more")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; leave out --device")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no such folder")
    if args.quick and args.write:
        parser.error("--quick is too short to keep; leave out --quick or --write")
    torch.set_num_threads(args.threads)


def report(args: argparse.Namespace, script: str, cells: Iterable[Cell], notes: str = "") -> None:
    """Print each table as soon as its cell is measured, and write what was asked for.

    The files are written after every cell: a run that is cut short keeps what it has, and says so.
    A table file keeps its section of the other kind of device: ``## cpu`` and ``## cuda``.
    """
    texts, records = [header(args), notes], []
    print(*texts, sep="\n", flush=True)
    path = Path(script).with_suffix(".md")
    for cell in cells:
        texts.append(cell.table())
        records += cell.records()
        print(texts[-1], flush=True)
        if args.json:
            args.json.write_text(json.dumps(records, indent=2) + "\n")
        if args.write:
            write_section(path, args.device, "\n".join([*texts, UNFINISHED]))
    if args.write:
        write_section(path, args.device, "\n".join(texts))


def write_section(path: Path, device: str, text: str) -> None:
    """Put the text under ``## device``; the other's section stays, or says "not measured"."""
    old = path.read_text() if path.exists() else ""
    parts = dict(
        re.findall(r"^## (cpu|cuda)\n\n(.*?)\s*(?=^## |\Z)", old, re.MULTILINE | re.DOTALL)
    )
    parts[device] = text.strip()
    title = path.stem.replace("_", " ").capitalize()
    sections = [f"## {kind}\n\n{parts.get(kind, 'not measured')}" for kind in ("cpu", "cuda")]
    path.write_text(f"# {title}\n\n" + "\n\n".join(sections) + "\n")


def header(args: argparse.Namespace) -> str:
    where = device_name(args.device, args.threads)
    return f"{datetime.now(UTC).date()}, {where}, {packages()}\n\n`{command()}`\n"


def command() -> str:
    """What was typed, without where this machine has its files."""
    words = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    words = re.sub(r" --(json|keep)[ =]\S+", "", words)
    words = re.sub(r"(--(?:teacher|trained))[ =]\S+", r"\1 RUN", words)
    return re.sub(r"(--(?:data|pretrain)-dir)[ =]\S+", r"\1 DIR", words)


def device_name(device: str, threads: int) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    name = processor_name(cpuinfo.read_text() if cpuinfo.exists() else "")
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def processor_name(cpuinfo: str) -> str:
    """From Linux's description; with its units for bfloat16, which make bf16-mixed pay."""
    found = re.search(r"model name\s*: (.+)", cpuinfo)
    name = found[1] if found else platform.processor() or platform.machine()
    name = " ".join(re.sub(r"\((R|TM)\)|\bProcessor\b|\bCPU\b", "", name).split())
    flags = re.search(r"flags\s*: (.+)", cpuinfo)
    words = flags[1].split() if flags else []
    units = next((unit for unit in ("amx_bf16", "avx512_bf16") if unit in words), None)
    return f"{name} with {units.upper().replace('_', '-')}" if units else name


def packages() -> str:
    found = []
    for name in ("vitlit", "torch", "torchvision", "timm", "transformers", "vit-pytorch"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)
