"""Trains and tests each training of a series, those that are not done yet, and sums up.

Series -> lightning_logs/NAME/{fold1, fold2, …, series.json, summary.csv, summary.json}
"""

import json
import signal
from pathlib import Path

from vitlit.cli.series import Series, read_series
from vitlit.commands.repeats.child import run_words
from vitlit.commands.repeats.summary import find_report, score_line, summary_lines, write_summary
from vitlit.errors import InputError, Stopped, TrainingError, warn
from vitlit.files import (
    CHECKPOINTS_FOLDER,
    COMMAND_FILE,
    FINISHED_FILE,
    SERIES_FILE,
    relative_path,
    replacing,
)
from vitlit.messages import labelled

STOPPED = {128 + signum: signum for signum in (signal.SIGINT, signal.SIGTERM)}


def train_series(words: list[str]) -> None:
    """Run ``vitlit fit`` with --folds or --repeats. words: those after ``fit``."""
    series = read_series(words)
    _begin(series)
    reports = []
    for number, name in enumerate(series.names, start=1):
        run = series.folder / name
        place = f"{name.rstrip('0123456789')} {number} of {series.count}"
        if not (run / FINISHED_FILE).exists():
            print(labelled("training", f"{place}: {relative_path(run)}"), flush=True)
            _run(series, place, series.fit_words(number))
        if not (run / FINISHED_FILE).exists():
            error = InputError(
                f"{place} ended before its training was finished, so it is not tested; give it "
                f"more time or steps, and go on with the same command"
            )
            error.way_on = series.way_on()
            raise error
        if find_report(run, series.fold(number)) is None:
            _run(series, f"the test of {place}", series.test_words_of(number), quiet=True)
        scores = find_report(run, series.fold(number))
        if scores is None:  # such as those of a test that somebody removed meanwhile
            raise TrainingError(f"{place}: there is no report of its test in {run}")
        print(score_line(name, scores), flush=True)
        reports.append(scores)
    write_summary(series, reports)
    print(*summary_lines(series, reports), sep="\n")


def _begin(series: Series) -> None:
    """Make the folder of the series, or find what it holds to be of the same series."""
    folder, file = series.folder, series.folder / SERIES_FILE
    about = {"kind": series.kind, "count": series.count, "words": _own_words(series)}
    if (folder / CHECKPOINTS_FOLDER).exists():
        raise InputError(f"run {folder.name} is one training; give another name (--run)")
    if file.exists():
        before = _read_about(file)
        if (before["kind"], before["count"]) != (series.kind, series.count):
            raise InputError(
                f"run {folder.name} has {before['count']} {before['kind']}, and not {series.count} "
                f"{series.kind}; give --{before['kind']} {before['count']} to continue them, or "
                f"another name (--run)"
            )
        if before["words"] != about["words"]:
            warn(f"run {folder.name} began with other options; trainings that are done keep those")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part:
            part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (folder / COMMAND_FILE).write_text(f"{series.way_on()}\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write into {folder}: {error.strerror}; change the permissions, or give "
            f"another folder (--trainer.default_root_dir)"
        ) from error


def _own_words(series: Series) -> list[str]:
    """The words that say what is trained: the name of the run is given only to continue it."""
    words = list(series.words)
    for place, word in enumerate(words):
        if word.partition("=")[0] == "--run":
            return words[:place] + words[place + (1 if "=" in word else 2) :]
    return words


def _read_about(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: content[name] for name in ("kind", "count", "words")}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} is damaged; remove it to go on") from error


def _run(series: Series, place: str, words: list[str], *, quiet: bool = False) -> None:
    """Run the command of one training, or raise what ended it, after its own words about it."""
    way_on = series.way_on()
    status = run_words(words, way_on, quiet=quiet)
    if status in STOPPED or -status in STOPPED.values():
        stop = Stopped(STOPPED.get(status, -status), f"in {place}")
        stop.way_on = way_on
        raise stop
    if status == 2:
        raise InputError(f"{place} was refused, for the reason above")
    if status:
        how = (
            f"was ended by {signal.Signals(-status).name}"
            if status < 0
            else "failed, for the reason above"
        )
        error = TrainingError(f"{place} {how}")
        error.way_on = way_on
        raise error
