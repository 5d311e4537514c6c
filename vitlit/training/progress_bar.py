"""The progress bar, and messages that do not overwrite it.

epochs, steps, scores -> a line of the terminal; log lines and warnings -> lines above it
"""

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

REDRAW_SECONDS = 0.5  # between two drawings of the bar
BATCH_IDX = 4  # position of batch_idx among the arguments of every on_*_batch_end hook


class Bar(TQDMProgressBar):
    """Draws itself twice a second, whatever the length of a step; messages appear above it.

    Lightning redraws by a number of steps, which is too often for fast steps and too rare for slow
    ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self._drawn = 0.0
        self._messages = ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # Called once for each stage: end the redirection of the one before.
        self._messages.close()
        self._messages.enter_context(messages_above())

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._messages.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bars, so that the error message starts on a line of its own below them."""
        for name in ("val", "test", "predict", "train"):
            with suppress(TypeError):  # raised by the getter of a bar that was never made
                getattr(self, f"{name}_progress_bar").close()
        self._messages.close()

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_start(trainer)
        # Lightning calls no on_train_epoch_start within an epoch, and it is what resets the bar.
        if trainer.fit_loop.restarted_mid_epoch:
            self.on_train_epoch_start(trainer)

    def is_due(self, batch_idx: int, bar: Any) -> bool:
        """Whether to draw a bar after a batch; notes the time if so. The last one always is."""
        now = time.monotonic()
        if batch_idx + 1 != bar.total and now - self._drawn < REDRAW_SECONDS:
            return False
        self._drawn = now
        return True

    def on_train_batch_end(self, *args: Any) -> None:
        if self.is_due(args[BATCH_IDX], self.train_progress_bar):
            super().on_train_batch_end(*args)

    def on_validation_batch_end(self, *args: Any) -> None:
        if self.is_due(args[BATCH_IDX], self.val_progress_bar):
            super().on_validation_batch_end(*args)

    def on_test_batch_end(self, *args: Any) -> None:
        if self.is_due(args[BATCH_IDX], self.test_progress_bar):
            super().on_test_batch_end(*args)

    def on_predict_batch_end(self, *args: Any) -> None:
        if self.is_due(args[BATCH_IDX], self.predict_progress_bar):
            super().on_predict_batch_end(*args)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The metrics without ``v_num``, which is only the last letters of the run's name."""
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}


@contextmanager
def messages_above() -> Iterator[None]:
    """Within it, log lines and warnings appear above the bars, which are drawn again below."""
    plain = warnings.showwarning

    def show(*args: Any, **options: Any) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            plain(*args, **options)

    warnings.showwarning = show
    try:
        with logging_redirect_tqdm(_loggers_to_terminal()):
            yield
    finally:
        # Somebody else, such as pytest, may have replaced it meanwhile; theirs must stay.
        if warnings.showwarning is show:
            warnings.showwarning = plain


def _loggers_to_terminal() -> list[logging.Logger]:
    # Lightning's loggers have handlers of their own, so redirecting the root alone is not enough.
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
