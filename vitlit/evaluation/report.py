"""Writes the report of ``test``: metrics.json, figures and, for small sets, all probabilities.

logits (n, K), labels (n,) -> test_report/: metrics.json confusion.png reliability.png mistakes.png
                                            mistakes.csv risk_coverage.png index.html
                                            probabilities.npz

The temperature is fitted on the validation split, which ``test`` uses for nothing else.
"""

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit import plotting
from vitlit.data.batch import Batch
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError
from vitlit.evaluation.calibration import Calibration
from vitlit.evaluation.inference import (
    ALONE,
    Collector,
    Compute,
    Processes,
    Rows,
    checked,
    collect,
    evenly_thinned,
    loader_of,
)
from vitlit.evaluation.multi_label_report import MultiLabelReport
from vitlit.evaluation.regression_report import RegressionReport
from vitlit.evaluation.report_files import (
    SingleLabelReport,
    fit_calibration,
    write_probabilities,
)
from vitlit.files import (
    CHECKPOINTS_FOLDER,
    HISTORY_FILE,
    METRICS_FILE,
    REPORT_FOLDER,
    check_writable,
    free_path,
    new_path,
    relative_path,
    whole_folder,
)
from vitlit.images.image_bytes import file_hash
from vitlit.messages import counted, labelled
from vitlit.tasks.known import DEFAULT
from vitlit.tasks.task import Task, TaskName

CALIBRATION_IMAGES = 5000  # validation images at most; more hardly change a single temperature
FLIPPED = "+flip"  # added to the split's name in the names of metrics: test+flip/acc
MAX_PROBABILITIES = 2_000_000  # in probabilities.npz: 8 MB; with more it is not written
REPORTS: dict[TaskName, type[Any]] = {  # what a report holds, by task
    "single_label": SingleLabelReport,
    "multi_label": MultiLabelReport,
    "regression": RegressionReport,
}


class Tested(NamedTuple):
    """What a test scored: the data, and how the model answers a batch on its device.

    is_debug: a trial of the program, which leaves no report. task: that of the model.
    """

    data: PlainImageData
    compute: Compute
    device: torch.device
    class_names: list[str]
    is_debug: bool = False
    task: Task = DEFAULT


class Report:
    """Writes the report of a test into the run of its checkpoint, in one process.

    weights: the checkpoint, or the name of published weights; out: folder to make in place of
    test_report; flip: whether logits are averaged with those of mirror images; note: for
    metrics.json, about what was scored; trained: steps of the training, at which loggers put the
    scores; gave_thresholds: whether the user gave other thresholds than those of the weights. A
    report on the same weights and data is replaced, any other is kept. An ``out`` that exists or
    cannot be written to is refused before anything is scored.
    """

    def __init__(
        self,
        weights: Path | str,
        out: str | None,
        *,
        flip: bool = False,
        note: str = "",
        trained: int = 0,
        gave_thresholds: bool = False,
    ) -> None:
        self.gave_thresholds = gave_thresholds
        self.weights, self.out, self.flip, self.note = weights, out, flip, note
        self.run = run_folder_of(weights)
        self.step = _last_step(self.run, trained)
        check_writable(_report_parent(weights) / REPORT_FOLDER if out is None else new_path(out))
        self.folder: Path | None = None
        self.metrics: dict[str, Any] = {}
        self.begin()

    def begin(self) -> None:
        """Forget the logits of an earlier test."""
        self._found = Collector()

    def add(self, logits: Tensor, batch: Batch) -> None:
        """Take the logits of a batch, ``(B, K)``."""
        self._found.add(logits, batch)

    def finish(self, tested: Tested, loggers: Iterable[Any], processes: Processes = ALONE) -> None:
        """Write the report. Every process calls it; the first one writes."""
        # both gather, so every process calls them
        data, found = tested.data, self._found.rows(processes.gather)
        rows = checked(found, data.splits[data.split], f"{data.dataset} {data.split}")
        calibration = _calibrate(tested, processes)
        if processes.is_first and not tested.is_debug:
            self._write(tested, rows, calibration, loggers)

    def _write(
        self, tested: Tested, rows: Rows, calibration: Calibration | str, loggers: Iterable[Any]
    ) -> None:
        names, data = tested.class_names, tested.data
        subject = self._subject(data)
        kind = REPORTS[tested.task.name]
        more = {"are_given": self.gave_thresholds} if kind is MultiLabelReport else {}
        parts = kind(tested.task, names, data, **more)
        self._lines = parts.lines
        about = {"of": subject, "file": str(file_hash(str(self.weights))), "note": self.note}
        self.metrics = parts.tables(rows, calibration) | about
        place = _report_parent(self.weights)
        self.folder = Path(self.out) if self.out else _report_folder(place, subject)
        title = _figure_title(subject, len(rows.labels))
        with whole_folder(self.folder, replace=True) as folder:
            text = json.dumps(self.metrics, indent=1, ensure_ascii=False) + "\n"
            # bytes of a path that are not UTF-8 become JSON's own escapes
            (folder / METRICS_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")
            drawn = parts.write(folder, rows, calibration, self.metrics, title=title)
            for name, figure in drawn.items():
                figure.savefig(folder / f"{name}.png")
            if parts.has_probabilities and rows.values.numel() <= MAX_PROBABILITIES:
                files = data.splits[data.split].files(rows.sample)
                write_probabilities(folder / "probabilities.npz", rows, names, files, tested.task)
        if "mistakes" not in drawn:  # an earlier report of the same may have had some
            (self.folder / "mistakes.png").unlink(missing_ok=True)
        prefix = metrics_prefix(data.split, flip=self.flip)
        extra = {f"{prefix}/{name}": value for name, value in parts.logged(self.metrics).items()}
        _log_scores(loggers, self.step, prefix, extra, drawn)

    def _subject(self, data: PlainImageData) -> dict[str, Any]:
        """What the report is about: two reports with equal subjects replace each other."""
        return {
            "weights": str(self.weights),
            "dataset": data.dataset,
            "data_dir": str(data.data_dir),
            "labels": data.hparams["labels"],
            "split": data.split,
            "split_seed": data.hparams["split_seed"],
            "fold": data.hparams["fold"],
            "flip": self.flip,
        }

    def lines(self) -> list[str]:
        """Lines for the end of the command: interval, calibration, and where the report is."""
        if self.folder is None:
            return []
        return [
            *self._lines(self.metrics),
            labelled("report", relative_path(self.folder / "index.html")),
        ]


def make_report(settings: Any, start: Any) -> Report:
    """The report that the settings of ``test`` ask for. start: the weights that are tested."""
    path, out, flip = settings["ckpt_path"], settings["out"], settings["flip"]
    weights = settings["model"]["pretrained"] if path is None else Path(path)
    gave = settings["model"].get("thresholds") != start.thresholds
    note, steps = start.note, start.steps
    return Report(weights, out, flip=flip, note=note, trained=steps, gave_thresholds=gave)


def metrics_prefix(split: str, *, flip: bool) -> str:
    """What the names of a test's metrics begin with: the split, and +flip if averaged."""
    return split + FLIPPED * flip


def _calibrate(tested: Tested, processes: Processes) -> Calibration | str:
    """The temperature, or in words why there is none; all processes must call it."""
    data = tested.data
    if tested.is_debug:
        return "this is a fast_dev_run"
    if not REPORTS[tested.task.name].has_temperature:
        return "the task has none"
    if data.split == "val":  # fitted on the images it is scored with, it would look too good
        return "the validation split, on which it would be fitted, is the one that was scored"
    found, reason = None, "the validation images cannot be read in another process"
    # the test is done: bad validation images cost the temperature, not the report
    try:
        data.setup("validate")
        loader = loader_of(data, evenly_thinned(data.splits["val"], CALIBRATION_IMAGES))
        found = collect(data, loader, tested.compute, tested.device)
    except InputError as error:
        reason = str(error)
    # together: a process that gathers while another one gave up would wait forever
    if not processes.agree(found is not None):
        return reason
    assert found is not None
    logits, labels, _ = found.rows(processes.gather)
    return fit_calibration(logits, labels)


def _figure_title(subject: dict[str, Any], count: int) -> str:
    flip = ", each averaged with its mirror image" if subject["flip"] else ""
    return f"{counted(count, 'image')}, {subject['dataset']} {subject['split']}{flip}"


def run_folder_of(weights: Path | str) -> Path | None:
    """The folder of a checkpoint's run; None if it is in none, or that cannot be written to."""
    if isinstance(weights, str) or weights.parent.name != CHECKPOINTS_FOLDER:
        return None
    run = weights.absolute().parent.parent
    return run if os.access(run, os.W_OK) else None


def _last_step(run: Path | None, trained: int) -> int:
    """The last step of a run, where the curves of its training end.

    trained: steps of the checkpoint in use, which counts if the run has no history.
    """
    try:
        with (run or Path()).joinpath(HISTORY_FILE).open(newline="", encoding="utf-8") as file:
            return max(trained, *(int(row["step"]) for row in csv.DictReader(file)))
    except (OSError, ValueError, KeyError, TypeError):
        return trained


def _report_parent(weights: Path | str) -> Path:
    """Where the report goes: the run's folder, or the checkpoint's, or the current one.

    The first of them that can be written to.
    """
    if run := run_folder_of(weights):
        return run
    is_file = isinstance(weights, Path) and weights.parent.name != CHECKPOINTS_FOLDER
    folder = Path(weights).parent
    return folder if is_file and os.access(folder, os.W_OK) else Path()


def _report_folder(parent: Path, subject: dict[str, Any]) -> Path:
    """test_report, or the first of test_report-2, … that is free or has the same subject."""
    path = parent / REPORT_FOLDER
    for earlier in [path, *sorted(parent.glob(f"{REPORT_FOLDER}-*"))]:
        try:
            if json.loads((earlier / METRICS_FILE).read_text(encoding="utf-8"))["of"] == subject:
                return earlier
        except (OSError, ValueError, KeyError, TypeError):  # not a report
            continue
    return free_path(path)


class RunBoard:
    """TensorBoard's file in the folder of a run, for scores and figures; without Lightning."""

    def __init__(self, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.experiment: Any = SummaryWriter(str(run))

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)


def _log_scores(
    loggers: Iterable[Any],
    step: int,
    name: str,
    extra: dict[str, float],
    drawn: dict[str, Any],
) -> None:
    """Give the loggers the figures, and the scores that the module did not log itself."""
    for logger in loggers:
        logger.log_metrics(extra, step=step)
        writer: Any = getattr(logger, "experiment", None)
        if hasattr(writer, "add_image"):  # TensorBoard's; the CSV logger has no such method
            for title, figure in drawn.items():
                picture = plotting.to_array(figure)
                writer.add_image(f"{name}/{title}", picture, step, dataformats="HWC")
