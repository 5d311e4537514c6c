"""What the folders of runs tell, read without torch: settings, scores by epoch, how it ended.

lightning_logs/NAME/{config.yaml, history.csv, finished, command, checkpoints} -> RunRecord
"""

import csv
import json
import math
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock, Timeout

from vitlit.cli.overview import TRAINING_COMMANDS
from vitlit.cli.safe_yaml import flat_values, read_yaml
from vitlit.errors import InputError
from vitlit.files import (
    CHECKPOINTS_FOLDER,
    COMMAND_FILE,
    DEBUG_FILE,
    FINISHED_FILE,
    HISTORY_FILE,
    LOCK_FILE,
    PROBE_FILE,
    RUNS_FOLDER,
    SERIES_FILE,
    relative_path,
)

MAX_HISTORY_BYTES = 50_000_000  # an epoch takes 200
MAX_COMMAND_LETTERS, MAX_EPOCHS = 10_000, 10_000_000
CONFIG_FILE = "config.yaml"
# as fit writes it; what stands before `vitlit` is not quoted
LAUNCHER = r"(torchrun (?:--nproc_per_node \d+|\(with the same options\)) -m -- )?"
COMMAND = re.compile(LAUNCHER + r"(.*)\n?")
OWN_WORDS = tuple(f"vitlit {command}" for command in TRAINING_COMMANDS)
SERIES_SETTINGS = ("data.fold", "data.split_seed", "seed_everything", "run")  # of one training
LOWER_IS_BETTER = ("val/loss", "val/mae", "val/rmse")


@dataclass(frozen=True)
class RunRecord:
    """One folder of a run.

    state: finished, probe (kept by probe --save), running, stopped, started (it has no checkpoint
    yet), debug, broken or foreign;
    trouble: what is wrong with the folder, or an empty string; settings: by dotted names; rows: of
    history.csv, the numbers alone; began: seconds since 1970; command: continues it, or ""; note:
    more to say.

    A series of trainings, of --folds or --repeats, is one record of their means.
    """

    name: str
    state: str
    trouble: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    began: float = 0.0
    command: str = ""
    note: str = ""

    @property
    def monitor(self) -> str:
        """The score by which the best epoch was chosen."""
        return str(self.settings.get("checkpoints.monitor", "val/acc"))

    @property
    def epochs(self) -> int:
        """Number of epochs that were completed, those before a resume included."""
        return int(self.rows[-1].get("epoch", -1)) + 1 if self.rows else 0

    @property
    def planned_epochs(self) -> int | None:
        """Number of epochs that it was to have; None if steps or a time limit it."""
        planned = self.settings.get("trainer.max_epochs")
        return planned if isinstance(planned, int) and planned > 0 else None

    @property
    def seconds(self) -> float:
        """Time that the epochs took, validations included."""
        return sum(row.get("seconds", 0.0) for row in self.rows)

    @property
    def best(self) -> dict[str, float]:
        """The row of the best epoch; empty if there is no score. Of equal ones the later counts."""
        sign = -1 if self.monitor in LOWER_IS_BETTER else 1
        scored = [row for row in self.rows if self.monitor in row]
        return max(reversed(scored), key=lambda row: sign * row[self.monitor], default={})

    @property
    def data(self) -> str:
        """The data set, or the name of the folder of images."""
        name = str(self.settings.get("data.dataset", ""))
        is_own = name in ("folder", "shards")
        return Path(str(self.settings.get("data.data_dir"))).name if is_own else name


def read_runs(root: Path) -> list[RunRecord]:
    """The runs in a folder such as lightning_logs, oldest first; broken and foreign ones too."""
    found = []
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            try:
                found.append(_read_run(path))
            except OSError as error:
                reason = f"{error.strerror}: {error.filename}"
                found.append(RunRecord(path.name, "broken", trouble=reason))
    return sorted(found, key=lambda run: (run.began, run.name))


def _read_run(folder: Path) -> RunRecord:
    files = {path.name: path for path in folder.iterdir()}
    # the oldest file that is still as the training began it
    times = [path.lstat().st_mtime for path in files.values()]
    began = min(times, default=folder.stat().st_mtime)
    if SERIES_FILE in files:
        return _read_series(folder, began)
    if not {CONFIG_FILE, HISTORY_FILE, CHECKPOINTS_FOLDER} & files.keys():
        reason = f"not a run of vitlit: it has neither {CONFIG_FILE} nor {CHECKPOINTS_FOLDER}"
        return RunRecord(folder.name, "foreign", trouble=reason, began=began)
    try:
        settings = read_settings(folder / CONFIG_FILE) if CONFIG_FILE in files else {}
        rows = read_rows(folder / HISTORY_FILE) if HISTORY_FILE in files else []
    except InputError as error:
        return RunRecord(folder.name, "broken", trouble=str(error), began=began)
    state = _state(folder, files)
    has_config = CONFIG_FILE in files or state == "probe"  # which has none
    trouble = "" if has_config else f"it has no {CONFIG_FILE}, so its settings are unknown"
    command = _command(folder, settings) if state in ("stopped", "started") else ""
    return RunRecord(folder.name, state, trouble, settings, rows, began, command)


def _read_series(folder: Path, began: float) -> RunRecord:
    """One record of several trainings: the mean of their best scores, and how many are done."""
    try:
        about = json.loads((folder / SERIES_FILE).read_text(encoding="utf-8"))
        kind, count = str(about["kind"]), int(about["count"])
    except (ValueError, TypeError, KeyError) as error:
        reason = f"{SERIES_FILE} is damaged: {error}"
        return RunRecord(folder.name, "broken", trouble=reason, began=began)
    runs = [run for run in read_runs(folder) if run.state != "foreign"]
    done = [run for run in runs if run.state == "finished"]
    states = {run.state for run in runs}
    state = "running" if "running" in states else "finished" if len(done) == count else "stopped"
    settings = dict(runs[0].settings) if runs else {}
    for name in SERIES_SETTINGS:
        settings.pop(name, None)
    rows: list[dict[str, float]] = []
    if scored := [run.best for run in done if run.best]:
        names = set.intersection(*(set(best) for best in scored))
        rows.append({name: fmean(best[name] for best in scored) for name in names})
        rows[0]["seconds"] = sum(run.seconds for run in runs)
        rows.append({"epoch": max(run.epochs for run in runs) - 1.0})
    note = f"{len(done)} of {count} {kind} are done{', whose means these are' if rows else ''}; "
    note += f"`vitlit runs {shlex.quote(relative_path(folder))}` lists them"
    command = _command(folder, settings) if state == "stopped" else ""
    return RunRecord(folder.name, state, "", settings, rows, began, command, note)


def _state(folder: Path, files: dict[str, Path]) -> str:
    if DEBUG_FILE in files:
        return "debug"
    if FINISHED_FILE in files:
        return "finished"
    if PROBE_FILE in files:
        return "probe"
    if LOCK_FILE in files and _is_locked(files[LOCK_FILE]):
        return "running"
    return "stopped" if any(folder.glob(f"{CHECKPOINTS_FOLDER}/*.ckpt")) else "started"


def _is_locked(path: Path) -> bool:
    """Whether a training holds the lock of its run."""
    try:
        import fcntl
    except ImportError:  # Windows
        try:
            with FileLock(path).acquire(timeout=0):
                return False
        except Timeout:
            return True
    # Shared: two listings at once do not take each other for a training.
    with path.open(encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
    return False


def _command(folder: Path, settings: dict[str, Any]) -> str:
    """The command that continues a run: as it was kept, else with its config.yaml."""
    command = "pretrain" if "model.mask_ratio" in settings else "fit"
    with_config = f"vitlit {command} --config {shlex.quote(relative_path(folder / CONFIG_FILE))}"
    own = f"{with_config} --run {shlex.quote(folder.name)}" if settings else ""
    try:
        with (folder / COMMAND_FILE).open(encoding="utf-8") as file:
            found = COMMAND.fullmatch(file.read(MAX_COMMAND_LETTERS))
        words = found[2] if found else ""
        # People will paste it into a shell: no more than words, each quoted as fit quotes it.
        is_ours = words.startswith(OWN_WORDS) and shlex.join(shlex.split(words)) == words
    except (OSError, ValueError):  # not there, not UTF-8, or quotes that do not end
        return own
    if not (found and is_ours and words.isprintable()):
        return own
    return f"{_way_to(folder, words)}{found[1] or ''}{words}"


def _way_to(folder: Path, words: str) -> str:
    """``cd`` to where a kept command was typed, unless that is here or cannot be known."""
    homes = [place.parent for place in folder.absolute().parents if place.name == RUNS_FOLDER]
    if not homes or homes[0] == Path.cwd() or "--trainer.default_root_dir" in words:
        return ""
    return f"cd {shlex.quote(relative_path(homes[0]))} && "


def read_settings(path: Path) -> dict[str, Any]:
    """The values of a config.yaml by dotted names. Raises InputError if it holds no settings."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path.name} holds no settings")
    return dict(flat_values(content))


def read_rows(path: Path) -> list[dict[str, float]]:
    """The finite numbers of each row of a history.csv. Raises InputError if it is damaged."""
    size = path.stat().st_size
    if size > MAX_HISTORY_BYTES:
        raise InputError(f"{path.name} has {size:,} bytes; at most {MAX_HISTORY_BYTES:,} are read")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file, strict=True))
        return [_numbers(row) for row in table]
    except (csv.Error, ValueError, TypeError) as error:
        raise InputError(f"{path.name} is damaged: {error}") from error


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    numbers = {name: float(value) for name, value in row.items() if value not in (None, "")}
    found = {name: value for name, value in numbers.items() if math.isfinite(value)}
    if not 0 <= found.get("epoch", -1) < MAX_EPOCHS:
        raise ValueError("a row has no epoch")
    return found
