"""Loggers that write into the folder of a run: curves, hyper-parameters and scores of a test.

run, settings -> TensorBoardLogger | CSVLogger without a version_N of its own
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from vitlit.files import RUNS_FOLDER, free_path

MAX_VALUE_LETTERS = 100  # of a hyper-parameter: a list of a thousand class names is none
CSV_FOLDER = "csv"


class RunTensorBoard(TensorBoardLogger):
    """TensorBoard in the folder of a run, whose HPARAMS tab shows the settings of the run.

    settings: plain values by name; metrics: names of the curves whose last values the tab shows.
    """

    def __init__(
        self, run: Path, settings: Mapping[str, Any] | None = None, metrics: tuple[str, ...] = ()
    ) -> None:
        # One folder for checkpoints, logs and report: Lightning would number a version_N beside it.
        super().__init__(
            run.parent.parent, name=run.parent.name, version=run.name, default_hp_metric=False
        )
        self._settings, self._metrics = settings or {}, metrics

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **options: Any) -> None:
        """Keep them for hparams.yaml as Lightning does, and write the settings for the tab."""
        super().log_hyperparams(*args, **options)
        if not self._settings:
            return
        from torch.utils.tensorboard.summary import hparams

        # Lightning's way would write a value of each metric, a point that was never measured; here
        # they are names alone, and the tab shows the last point of the curve.
        shown = {name: value for name, value in self._settings.items() if is_shown(value)}
        names = dict.fromkeys(self._metrics, 0.0)
        for summary in hparams(shown, names):  # type: ignore[no-untyped-call]
            self.experiment.file_writer.add_summary(summary)


def is_shown(value: Any) -> bool:
    """Whether a setting is a plain value that fits into a cell of the tab."""
    return isinstance(value, int | float) or (
        isinstance(value, str) and len(value) <= MAX_VALUE_LETTERS
    )


def into_run(
    logger: Logger, arguments: Mapping[str, Any], run: Path, board: RunTensorBoard
) -> Logger:
    """The logger that a config asks for, in the run's folder if it would number one beside it.

    arguments: with which the config made it; board: the usual logger of the run, which takes the
    place of a plain TensorBoardLogger there.
    """
    root, asked = run.parent.parent, arguments.get
    is_here = Path(asked("save_dir") or ".").resolve() in (root.resolve(), run.parent.resolve())
    is_numbered = asked("version") is None and asked("name") in (None, RUNS_FOLDER)
    if not is_here or not is_numbered:
        return logger
    if type(logger) is TensorBoardLogger:
        return board
    if type(logger) is CSVLogger:
        # A folder for each command: a logger that finds an older metrics.csv removes it.
        folder = free_path(run / CSV_FOLDER).name
        place = {"save_dir": run.parent, "name": run.name, "version": folder}
        return CSVLogger(**{**arguments, **place})
    return logger
