"""What ``fit --folds`` and ``fit --repeats`` ask for, and the words of each of their trainings.

words of a command line -> Series: folder, number of trainings -> words of ``fit`` and of ``test``

Imports no torch: the process that starts the trainings waits for them, and should cost nothing.
"""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vitlit.cli.configs import find_config
from vitlit.cli.safe_yaml import flat_values, parse_yaml, read_yaml
from vitlit.errors import InputError
from vitlit.files import RUNS_FOLDER, expanded
from vitlit.training.slurm import job_name, launcher_of

STEMS = {"folds": "fold", "repeats": "repeat"}  # option -> start of the names of its trainings
MAX_COUNT = 1000
SERIES_NAME = re.compile(r"\w[\w.+-]*")  # one folder, in which each training has its own
CONFIG_OPTIONS = ("--config", "-c")
# Settings of the training that decide where and how its test computes too.
TEST_SETTINGS = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.enable_progress_bar",
    "data.num_workers",
    "data.memory_gb",
)


@dataclass(frozen=True)
class Series:
    """Several trainings of one command.

    kind: folds or repeats; count: how many; words: those of ``fit``, without these two options;
    folder: that of the series, in which each training has its own; seeds: the first split_seed and
    seed_everything, which repeats count up; test_words: options for each test.
    """

    kind: str
    count: int
    words: tuple[str, ...]
    folder: Path
    seeds: tuple[int, int] = (0, 0)
    test_words: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the trainings, which are those of their folders too."""
        return [f"{STEMS[self.kind]}{number}" for number in range(1, self.count + 1)]

    def fold(self, number: int) -> str | None:
        """What data.fold is in a training, counted from 1."""
        return f"{number}/{self.count}" if self.kind == "folds" else None

    def fit_words(self, number: int) -> list[str]:
        """The command line of a training, counted from 1. The last of equal options counts."""
        name = f"{self.folder.name}/{self.names[number - 1]}"
        if fold := self.fold(number):
            return ["fit", *self.words, f"--run={name}", f"--data.fold={fold}"]
        split, other = (seed + number - 1 for seed in self.seeds)
        seeds = (f"--data.split_seed={split}", f"--seed_everything={other}")
        return ["fit", *self.words, f"--run={name}", *seeds]

    def test_words_of(self, number: int) -> list[str]:
        """The command line of the test of a training, counted from 1."""
        run = self.folder / self.names[number - 1]
        return ["test", f"--ckpt_path={run}", *self.test_words]

    def way_on(self) -> str:
        """The command that continues it."""
        words = [*self.words, f"--{self.kind}", str(self.count)]
        if not any(word.partition("=")[0] == "--run" for word in words):
            words += ["--run", self.folder.name]
        return f"vitlit fit {shlex.join(words)}"


def read_series(words: Sequence[str]) -> Series:
    """The series that the words after ``fit`` ask for. Raises InputError for what it cannot be."""
    asked, rest = _split_words(words)
    if len(asked) > 1:
        raise InputError("--folds and --repeats are two ways to train several times; give one")
    [(kind, value)] = asked.items()
    count = int(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0
    if not 2 <= count <= MAX_COUNT:
        raise InputError(
            f"{kind} {value or '(nothing)'} is not between 2 and {MAX_COUNT}; give another number "
            f"(--{kind})"
        )
    given = given_settings(rest)
    _check_clashes(kind, given)
    _check_launcher(kind, count)
    root = expanded(str(given.get("trainer.default_root_dir") or "."))
    name = given.get("run") or job_name(os.environ) or f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    if not SERIES_NAME.fullmatch(str(name)):
        raise InputError(f"run {name!r} is not a name; use letters, digits and . _ + - (--run)")
    seeds = [_seed(given, name) for name in ("data.split_seed", "seed_everything")]
    how = [f"--{key}={given[key]}" for key in TEST_SETTINGS if given.get(key) is not None]
    folder = root / RUNS_FOLDER / str(name)
    return Series(kind, count, tuple(rest), folder, (seeds[0], seeds[1]), tuple(how))


def _split_words(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The values of --folds and --repeats, and the other words."""
    asked: dict[str, str] = {}
    rest: list[str] = []
    place = 0
    while place < len(words):
        name, equals, value = words[place].partition("=")
        place += 1
        if name.removeprefix("--") not in STEMS or not name.startswith("--"):
            rest.append(words[place - 1])
        elif equals or place == len(words) or words[place].startswith("--"):
            asked[name.removeprefix("--")] = value
        else:
            asked[name.removeprefix("--")] = words[place]
            place += 1
    return asked, rest


def given_settings(words: Sequence[str]) -> dict[str, Any]:
    """What configs and options give, by dotted names; of several the last counts.

    Values of options are text. A group of settings in a file of its own is not read.
    """
    found: dict[str, Any] = {}
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        value = value if equals else following
        if name in CONFIG_OPTIONS:
            content = read_yaml(find_config(value))
            found |= dict(flat_values(content)) if isinstance(content, dict) else {}
        elif name.startswith("--"):
            content = parse_yaml(value, name) if value.startswith("{") else value
            found |= dict(flat_values({name.removeprefix("--"): content}))
    return found


def _seed(given: dict[str, Any], name: str) -> int:
    try:
        return int(given.get(name, 0))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} {given[name]} is not a whole number (--{name})") from error


def _check_clashes(kind: str, given: dict[str, Any]) -> None:
    """Refuse settings under which there would be nothing to sum up."""
    if given.get("ckpt_path"):
        raise InputError(
            f"--{kind} begins each of its trainings anew, so there is none that ckpt_path "
            f"{given['ckpt_path']} could continue; leave out --ckpt_path, or give "
            f"--model.pretrained to start each of them from those weights"
        )
    if kind == "folds" and given.get("data.fold"):
        raise InputError(
            f"--folds trains every fold, and data.fold {given['data.fold']} is one; leave out "
            f"one of the two"
        )
    if str(given.get("trainer.fast_dev_run", "false")).lower() not in ("false", "0", "none", ""):
        raise InputError(f"--{kind} sums up tests, and trainer.fast_dev_run leaves none to do")
    if str(given.get("trainer.enable_checkpointing", "true")).lower() == "false":
        raise InputError(
            f"--{kind} tests the checkpoint of each training, and trainer.enable_checkpointing "
            f"false leaves none; leave it out"
        )


def _check_launcher(kind: str, count: int) -> None:
    """Refuse to be one of several processes: each training is started as a process of its own."""
    if launcher := launcher_of(os.environ).name:
        own = f"--data.fold 1/{count} " if kind == "folds" else "seeds of its own "
        raise InputError(
            f"--{kind} starts its trainings itself, so {launcher} cannot start it; start it as "
            f"one process and give --trainer.devices, or use the launcher for each training, with "
            f"{own}and --run NAME/{STEMS[kind]}1 and so on, and this command for the summary"
        )


def check_series(settings: Any, command: str) -> None:
    """Refuse a number of trainings where nothing reads it: only ``fit`` does, of its own words."""
    for name in ("folds", "repeats"):
        if settings[name] is None:
            continue
        if command == "pretrain":
            raise InputError(
                f"{name} {settings[name]} asks for tests, and pretrain learns no classes to test; "
                f"leave it out"
            )
        if command == "fit":
            raise InputError(
                f"{name} is read on the command line alone; give --{name} {settings[name]} there, "
                f"and leave it out of the config"
            )
