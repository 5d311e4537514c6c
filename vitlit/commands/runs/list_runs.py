"""``vitlit runs``: a table of the runs in a folder, or a CSV file of them. Imports no torch.

RunRecord of each folder -> sorted -> a line each, its settings, and the command to go on
"""

import argparse
import csv
import os
import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from vitlit.cli.overview import COMMANDS, TRAINING_COMMANDS
from vitlit.cli.parser_internals import options_of
from vitlit.commands.runs.run_records import LOWER_IS_BETTER, RunRecord, read_runs
from vitlit.errors import InputError, did_you_mean
from vitlit.files import RUNS_FOLDER, expanded, printable, relative_path, replacing
from vitlit.messages import LINE_WIDTH, labelled_command, short_time, shorten

ORDERS = ("began", "score", "name", "time")
DATA_LETTERS, VALUE_LETTERS = 13, 24  # of the name of a data set, and of the value of a setting
SETTING_LINES = 3  # of a run; the CSV file has all settings that differ
FROM_DATA = re.compile(r"data\.(task|in_chans|class_names|split_by|mean|std)")  # null: the data's
# Settings that name places, or say how a training is shown, run or read, not what it learns.
INDIFFERENT = {
    "run",
    "ckpt_path",
    "folds",
    "repeats",
    "weights_only",
    "allow_classes_of",
    "timeout_seconds",
    "recipe.global_batch",
    "data.dataset",  # has a column
    "checkpoints.monitor",  # is the name of the score
    "data.split",
    "data.images",
    "data.num_workers",
    "data.memory_gb",
    "data.download",
    "trainer.default_root_dir",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.profiler",
    "pictures.every_n_epochs",
    "checkpoints.every_n_steps",
    "checkpoints.every_minutes",
}
HEADINGS = ("run", "data", "epochs", "score", "best at", "time", "state")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `vitlit runs --help` lists the options")


def make_parser() -> argparse.ArgumentParser:
    """The options of ``vitlit runs``."""
    parser = _Parser(prog="vitlit runs", description=COMMANDS["runs"], allow_abbrev=False)
    parser.add_argument(
        "folder", nargs="?", default=RUNS_FOLDER, help="Folder that holds the folders of the runs."
    )
    parser.add_argument(
        "--sort",
        default="began",
        metavar="ORDER",
        help="Order: began (oldest first), score (best first), name, or time (longest first).",
    )
    parser.add_argument(
        "--csv", metavar="FILE", help="Write the table to this file instead, with all details."
    )
    return parser


def list_runs(args: Sequence[str]) -> None:
    """Run ``vitlit runs``. args: the words after it. Raises InputError for wrong ones."""
    parser = make_parser()
    asked, unknown = parser.parse_known_args(args)
    if unknown and not unknown[0].startswith("-"):
        raise InputError(f"runs takes one folder, {asked.folder}, and not {unknown[0]!r} as well")
    if unknown:
        words = [word for action in options_of(parser) for word in action.option_strings]
        hint = did_you_mean(unknown[0].partition("=")[0], words)
        raise InputError(f"runs has no option {unknown[0]!r}{hint or '; it has --sort and --csv'}")
    if asked.sort not in ORDERS:
        known, hint = ", ".join(ORDERS), did_you_mean(asked.sort, [*ORDERS])
        raise InputError(f"unknown order {asked.sort!r}; --sort takes {known}{hint}")
    root = expanded(asked.folder)
    if asked.folder != RUNS_FOLDER and not root.is_dir():
        raise InputError(f"no folder {asked.folder}; give one that holds runs, or leave it out")
    runs = read_runs(root) if root.is_dir() else []
    if not runs:
        print(f"no runs in {relative_path(root)}; `vitlit fit --config digits.yaml` trains one")
        return
    runs = sort_runs(runs, asked.sort)
    if asked.csv is not None:
        write_csv(runs, asked.csv)
        print(f"wrote       {asked.csv}: {len(runs)} run{'s' * (len(runs) > 1)}")
    else:
        print(*table_lines(runs), sep="\n")


def shared_score(runs: Sequence[RunRecord]) -> str | None:
    """The score that chose the best epochs of all runs; None if they differ in it."""
    monitors = {run.monitor for run in runs if run.best} or {"val/acc"}
    return monitors.pop() if len(monitors) == 1 else None


def sort_runs(runs: Sequence[RunRecord], order: str) -> list[RunRecord]:
    """The runs in an order of ORDERS; those without a score come last, and the same scores stand
    together."""
    keys: dict[str, Callable[[RunRecord], Any]] = {
        "began": lambda run: (run.began, run.name),
        "name": lambda run: run.name,
        "time": lambda run: -run.seconds,
        "score": _rank,
    }
    return sorted(runs, key=keys[order])


def _rank(run: RunRecord) -> tuple[bool, str, float]:
    """Key that sorts by the kind of score, and the best first."""
    if not run.best:
        return True, "", 0.0
    sign = 1 if run.monitor in LOWER_IS_BETTER else -1
    return False, run.monitor, sign * run.best[run.monitor]


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """Names of the settings that have several values in these runs; places and looks left out."""
    folders = {run.settings.get("data.dataset") for run in runs} == {"folder"}
    skipped = INDIFFERENT if folders else INDIFFERENT | {"data.data_dir"}
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if name not in skipped and len(set(_values(runs, name))) > 1]


def _values(runs: Sequence[RunRecord], name: str) -> list[str]:
    """The values of a setting, without null where it stands for what the data decide."""
    values = [run.settings[name] for run in runs if name in run.settings]
    return [repr(value) for value in values if value is not None or not FROM_DATA.fullmatch(name)]


def table_lines(runs: Sequence[RunRecord]) -> list[str]:
    """The table, at most 80 columns wide: a line for each run, and what belongs to it below."""
    score = shared_score(runs)
    word = "score" if score is None else score.removeprefix("val/")
    headings = [word if name == "score" else name for name in HEADINGS]
    table = [headings, *(_cells(run, with_name=score is None) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    # what the other columns leave to the names; a longer one has a line to itself
    widths[0] = min(widths[0], LINE_WIDTH - sum(width + 2 for width in widths[1:]))
    labels = _short_labels(differing(runs))
    lines = [_row(table[0], widths)]
    for run, cells in zip(runs, table[1:], strict=True):
        if len(cells[0]) > widths[0]:
            lines.append(cells[0])
            cells[0] = ""
        lines += [_row(cells, widths), *_setting_lines(run, labels), *_end_lines(run)]
    return lines


def _cells(run: RunRecord, *, with_name: bool) -> list[str]:
    best = run.best
    name = f"{run.monitor.removeprefix('val/')} " if with_name else ""
    planned = f"/{run.planned_epochs}" if run.planned_epochs else ""
    return [
        printable(run.name),
        printable(shorten(run.data, DATA_LETTERS)) or "-",
        f"{run.epochs}{planned}" if run.settings or run.rows else "-",
        f"{name}{best[run.monitor]:.4f}" if best else "-",
        f"{best['epoch'] + 1:.0f}" if best else "-",
        short_time(run.seconds) if run.rows else "-",
        run.state,
    ]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, numbers to the right."""
    sides = "<<>>>><"
    parts = [
        f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, widths, strict=True)
    ]
    return "  ".join(parts).rstrip()


def _short_labels(names: Sequence[str]) -> dict[str, str]:
    """For each setting its last name, if no other of them ends in the same."""
    last = {name: name.rpartition(".")[2] for name in names}
    counts = Counter(last.values())
    return {name: word if counts[word] == 1 else name for name, word in last.items()}


def _setting_lines(run: RunRecord, labels: dict[str, str]) -> list[str]:
    words = [
        f"{label} {shorten(printable(shown_value(run.settings[name])), VALUE_LETTERS)}"
        for name, label in labels.items()
        if name in run.settings
    ]
    lines = _fill(", ".join(words))
    if len(lines) <= SETTING_LINES:
        return lines
    more = "  …; --csv FILE lists all settings that differ"
    return [*lines[: SETTING_LINES - 1], more]


def _fill(text: str) -> list[str]:
    indent = "  "
    return textwrap.wrap(
        text,
        LINE_WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def shown_value(value: Any) -> str:
    """A setting as a config would say it, numbers without needless digits."""
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _end_lines(run: RunRecord) -> list[str]:
    """What is wrong with the folder, and the command that goes on."""
    lines = [*_fill(printable(run.trouble)), *_fill(printable(run.note))]
    if run.command:
        word = "  continue" if run.state == "stopped" else "  begin"
        lines.append(labelled_command(word, *_parts(run.command)))
    return lines


def _parts(command: str) -> list[str]:
    """A command in parts between which a line may break: an option stays with its value."""
    start = re.match(f"(.*?vitlit (?:{'|'.join(TRAINING_COMMANDS)}))(.*)", command)
    if start is None:
        return [command]
    parts, rest = [start[1]], start[2]
    for word in shlex.split(rest):
        if word.startswith("--"):
            parts.append(shlex.quote(word))
        else:
            parts[-1] += f" {shlex.quote(word)}"
    return parts


def write_csv(runs: Sequence[RunRecord], path: str) -> None:
    """Write what is known of each run, whole names and values, and the settings that differ.

    Raises InputError if the file exists, or its folder does not.
    """
    target = expanded(path)
    if os.path.lexists(target):
        raise InputError(f"{path} exists; give --csv another name, or remove it")
    if not target.parent.is_dir():
        raise InputError(f"--csv {path}: there is no folder {Path(path).parent}; make it first")
    names = differing(runs)
    with replacing(target) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*CSV_COLUMNS, *names])
        for run in runs:
            values = [column(run) for column in CSV_COLUMNS.values()]
            writer.writerow([*values, *(_csv_value(run, name) for name in names)])


def _csv_value(run: RunRecord, name: str) -> str:
    return shown_value(run.settings[name]) if name in run.settings else ""


CSV_COLUMNS: dict[str, Callable[[RunRecord], Any]] = {
    "run": lambda run: run.name,
    "data": lambda run: run.data,
    "state": lambda run: run.state,
    "began": lambda run: datetime.fromtimestamp(run.began).isoformat(" ", "seconds"),
    "epochs": lambda run: run.epochs,
    "planned_epochs": lambda run: run.planned_epochs,
    "seconds": lambda run: round(run.seconds, 1),
    "monitor": lambda run: run.monitor if run.best else None,
    "score": lambda run: run.best.get(run.monitor),
    "best_epoch": lambda run: round(run.best["epoch"]) + 1 if run.best else None,
    "val/acc": lambda run: run.best.get("val/acc"),
    "val/balanced_acc": lambda run: run.best.get("val/balanced_acc"),
    "val/map": lambda run: run.best.get("val/map"),
    "val/mae": lambda run: run.best.get("val/mae"),
    "val/r2": lambda run: run.best.get("val/r2"),
    "val/loss": lambda run: run.best.get("val/loss"),
    "command": lambda run: run.command,
    "trouble": lambda run: run.trouble,
}
