"""The progress bar, and messages that do not run into it.

epochs, steps, scores -> a line of the terminal; log lines and warnings -> lines above it
"""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

REDRAW = 0.5  # seconds between two drawings of the bar


class Bar(TQDMProgressBar):
    """Draws itself twice a second, whatever the length of a step; messages come above it."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn = 0.0
        self._messages = ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._messages.close()
        self._messages.enter_context(messages_above())

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._messages.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """End the lines of the bars: what went wrong is told below them."""
        scoring = (self._val_progress_bar, self._test_progress_bar, self._predict_progress_bar)
        for bar in (*scoring, self._train_progress_bar):
            if bar is not None:
                bar.close()
        self._messages.close()

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_start(trainer)
        if trainer.fit_loop.restarted_mid_epoch:  # whose start will not come
            self.on_train_epoch_start(trainer)

    def _should_update(self, current: int, total: int) -> bool:
        now = time.monotonic()
        if current != total and now - self._drawn < REDRAW:
            return False
        self._drawn = now
        return self.is_enabled

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Without the last letters of the run's name."""
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}


@contextmanager
def messages_above() -> Iterator[None]:
    """Log lines and warnings that go to the terminal clear the bars, which are drawn again."""
    plain = warnings.showwarning

    def show(*args: Any, **options: Any) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            plain(*args, **options)

    warnings.showwarning = show
    try:
        with logging_redirect_tqdm(_loggers_to_terminal()):
            yield
    finally:
        if warnings.showwarning is show:
            warnings.showwarning = plain


def _loggers_to_terminal() -> list[logging.Logger]:
    known = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    return [
        one
        for one in known
        if isinstance(one, logging.Logger)
        and any(
            isinstance(handler, logging.StreamHandler)
            and handler.stream in (sys.stdout, sys.stderr)
            for handler in one.handlers
        )
    ]
