"""Writes the report of ``test``: metrics.json, figures and, for small sets, all probabilities.

logits (n, K), labels (n,) -> test_report/: metrics.json confusion.png reliability.png mistakes.png
                                            mistakes.csv index.html probabilities.npz

The temperature is fitted on the validation split, which ``test`` uses for nothing else.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from vitlit import plotting
from vitlit.data.batch import Batch
from vitlit.data.datamodule import ImageData
from vitlit.errors import InputError
from vitlit.evaluation.calibration import Calibration
from vitlit.evaluation.inference import Collector, Rows, collect, evenly_thinned, loader_of
from vitlit.evaluation.report_files import (
    calibration_words,
    draw_report,
    fit_calibration,
    report_tables,
    write_mistakes,
    write_page,
    write_probabilities,
)
from vitlit.evaluation.scoring import Scoring
from vitlit.files import (
    CHECKPOINTS_FOLDER,
    METRICS_FILE,
    REPORT_FOLDER,
    free_path,
    new_path,
    relative_path,
    whole_folder,
)
from vitlit.messages import labelled

CALIBRATION_IMAGES = 5000  # validation images at most; more hardly change a single temperature
MAX_PROBABILITIES = 2_000_000  # in probabilities.npz: 8 MB; with more it is not written


def report_place(settings: Any) -> tuple[Path | str, str | None]:
    """The weights in use, and the folder that the user gave, from the settings of ``test``."""
    path = settings["ckpt_path"]
    return settings["model"]["pretrained"] if path is None else Path(path), settings["out"]


class Report(Callback):
    """Writes the report of a test into the run of its checkpoint, in one process.

    weights: the checkpoint, or the name of published weights; out: folder to make in place of
    test_report; note: for metrics.json, about what was scored; step: to which loggers put the
    scores. A report on the same weights and data is replaced, any other is kept. An ``out`` that
    exists or cannot be written to is refused before anything is scored.
    """

    def __init__(self, weights: Path | str, out: str | None, note: str = "", step: int = 0) -> None:
        self.weights, self.out, self.note, self.step = weights, out, note, step
        if out is not None:
            new_path(out)
        if out is None and not os.access(place := _report_parent(weights), os.W_OK):
            raise InputError(
                f"cannot write into {place.absolute()}; give another folder", argument="out"
            )
        self.folder: Path | None = None
        self.metrics: dict[str, Any] = {}
        self._found = Collector()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._found = Collector()  # anew, if one trainer tests twice

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._found.add(outputs, batch)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning logs the scores at the step of this name; its own count begins anew in a test.
        pl_module.log("step", float(self.step))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Scoring)
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        gather = pl_module.all_gather if trainer.world_size > 1 else None
        # both gather, so every process calls them, though only the first one writes
        rows = self._found.rows(gather)  # type: ignore[arg-type]
        calibration = _calibrate(trainer, pl_module, data)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer, pl_module, data, rows, calibration)

    def _write(
        self,
        trainer: pl.Trainer,
        module: Scoring,
        data: ImageData,
        rows: Rows,
        calibration: Calibration | str,
    ) -> None:
        names: list[str] = module.class_names  # type: ignore[assignment]
        subject = self._subject(data, flip=module.flip)
        self.metrics = report_tables(rows, names, calibration) | {"of": subject, "note": self.note}
        self.folder = (
            Path(self.out) if self.out else _report_folder(_report_parent(self.weights), subject)
        )
        title = _figure_title(subject, len(rows.labels))
        with whole_folder(self.folder, replace=True) as folder:
            text = json.dumps(self.metrics, indent=1, ensure_ascii=False) + "\n"
            # bytes of a path that are not UTF-8 become JSON's own escapes
            (folder / METRICS_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")
            drawn = draw_report(rows, names, calibration, data, title=title)
            for name, figure in drawn.items():
                figure.savefig(folder / f"{name}.png")
            about = (rows, names, calibration, data, self.metrics)
            write_page(folder / "index.html", *about, title=f"Test of {title}")
            write_mistakes(folder / "mistakes.csv", rows, names, data)
            if rows.values.numel() <= MAX_PROBABILITIES:
                files = data.splits[data.split].files(rows.sample)
                write_probabilities(folder / "probabilities.npz", rows, names, files)
        _log_scores(trainer, self.step, module.tested, self.metrics["scores"], drawn)

    def _subject(self, data: ImageData, *, flip: bool) -> dict[str, Any]:
        """What the report is about: two reports with equal subjects replace each other."""
        return {
            "weights": str(self.weights),
            "dataset": data.dataset,
            "data_dir": str(data.data_dir),
            "labels": data.hparams["labels"],
            "split": data.split,
            "split_seed": data.hparams["split_seed"],
            "flip": flip,
        }

    def lines(self) -> list[str]:
        """Lines for the end of the command: interval, calibration, and where the report is."""
        if self.folder is None:
            return []
        found = self.metrics["scores"]
        low, high = found["acc_interval"]
        text = calibration_words(found, self.metrics["temperature"])
        return [
            labelled("interval", f"accuracy from {low:.4f} to {high:.4f} (95 %, Wilson)"),
            labelled("calibrated", text),
            labelled("report", relative_path(self.folder)),
        ]


def _calibrate(trainer: pl.Trainer, module: Scoring, data: ImageData) -> Calibration | str:
    """The temperature, or in words why there is none; all processes must call it."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "this is a fast_dev_run"
    if data.split == "val":  # fitted on the images it is scored with, it would look too good
        return "the validation split, on which it would be fitted, is the one that was scored"
    found, reason = None, "the validation images cannot be read in another process"
    # the test is done: bad validation images cost the temperature, not the report
    try:
        data.setup("validate")
        loader = loader_of(data, evenly_thinned(data.splits["val"], CALIBRATION_IMAGES))
        with trainer.precision_plugin.forward_context():
            found = collect(data, loader, module.logits, module.device)
    except InputError as error:
        reason = str(error)
    # together: a process that gathers while another one gave up would wait forever
    if not trainer.strategy.reduce_boolean_decision(found is not None):
        return reason
    assert found is not None
    gather: Any = module.all_gather if trainer.world_size > 1 else None
    logits, labels, _ = found.rows(gather)
    return fit_calibration(logits, labels)


def _figure_title(subject: dict[str, Any], count: int) -> str:
    flip = ", each averaged with its mirror image" if subject["flip"] else ""
    return f"{count} images, {subject['dataset']} {subject['split']}{flip}"


def run_folder_of(weights: Path | str) -> Path | None:
    """The folder of a checkpoint's run; None if it is in none, or that cannot be written to."""
    if isinstance(weights, str) or weights.parent.name != CHECKPOINTS_FOLDER:
        return None
    run = weights.absolute().parent.parent
    return run if os.access(run, os.W_OK) else None


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


def _log_scores(
    trainer: pl.Trainer, step: int, name: str, table: dict[str, Any], drawn: dict[str, Any]
) -> None:
    """Give the loggers the figures, and the scores that the module did not log itself."""
    extra = {f"{name}/{key}": table[key] for key in ("f1", "ece")}
    for logger in trainer.loggers:
        logger.log_metrics(extra, step=step)
        writer: Any = getattr(logger, "experiment", None)
        # add_image is TensorBoard's; the CSV logger has no such method
        if hasattr(writer, "add_image"):
            for title, figure in drawn.items():
                picture = plotting.to_array(figure)
                writer.add_image(f"{name}/{title}", picture, step, dataformats="HWC")
