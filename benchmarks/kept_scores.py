"""Scores of trainings: kept in a file, so that a stop loses none; and the options of the scripts.

one JSON object a line, with all that decides the training -> scores by digest -> a table
"""

import argparse
import json
import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import measure
import torch


@dataclass(frozen=True)
class Score:
    """Accuracy after a training; seconds: of the processor, those before it and the test included
    for a probe, else those of the training alone."""

    accuracy: float
    images: int
    seconds: float


def append(path: Path, about: Mapping[str, Any], score: Score) -> None:
    """Add a line in one write, so that a stop loses nothing and cuts no other line short."""
    with path.open("ab", buffering=0) as file:
        file.write((json.dumps({**about, **asdict(score)}) + "\n").encode())
        os.fsync(file.fileno())


def read(path: Path) -> dict[str, Score]:
    """Scores by the digest of their training; none where there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    names = Score.__dataclass_fields__
    found = {row["digest"]: row for row in rows if "accuracy" in row}  # muon.py's have none
    return {key: Score(**{name: row[name] for name in names}) for key, row in found.items()}


def spread(scores: Iterable[float], sign: str = "+-") -> str:
    """Mean and standard deviation; of a single score that alone."""
    values = list(scores)
    several = f" {sign} {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{several}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *(list(cells) for cells in rows)]
    return "\n".join(map(measure.row, lines))


def parser(text: str) -> argparse.ArgumentParser:
    """The options that the scripts share."""
    found = argparse.ArgumentParser(description=text.split("\n", 1)[0])
    found.add_argument("--data-dir", type=Path, metavar="DIR", help="holds MNIST/raw, train, test")
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    found.add_argument("--split", choices=["test", "val"], default="test", help="what is scored")
    found.add_argument("--keep", type=Path, metavar="DIR", help="of the checkpoints; not removed")
    found.add_argument("--quick", action="store_true", help="one seed, ten steps: does it run?")
    found.add_argument("--write", action="store_true", help="into the table")
    return found


def parsed(found: argparse.ArgumentParser) -> argparse.Namespace:
    """The options; one thread computes, as in all tables of these scripts."""
    args = found.parse_args()
    if args.write and (args.quick or args.split == "val"):
        found.error("--quick and --split val are for a look; leave them out, or --write")
    if args.quick:
        args.seeds = args.seeds[:1]
    for name in ("data_dir", "keep", "teacher"):
        if getattr(args, name, None) is not None:
            setattr(args, name, getattr(args, name).absolute())
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_utilities|torch.nn")
    return args


def about() -> str:
    """When, where and with what: the head of a section."""
    device = measure.device_name("cpu", torch.get_num_threads())
    return f"{datetime.now(UTC).date()}, {device}, {measure.packages()}\n\n`{measure.command()}`"
