"""The progress bar of a terminal, and lines that do not overwrite it.

batches done, loss -> the last line of the terminal; lines, log and warnings -> lines above it
"""

import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vitlit.messages import terminal_width

REDRAW_SECONDS = 0.5  # between two drawings of the bar
KEPT_COLUMNS = 3  # right of the bar: the ^C that a terminal echoes must not break its line
BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"


class Bar(ProgressBar):
    """One bar for what is being done, as wide as the terminal; it vanishes when that is done.

    It is drawn twice a second, whatever the length of a step. Lightning's bars are redrawn by a
    number of steps, which is too often for fast steps and too rare for slow ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[Any] | None = None
        self._title, self._drawn, self._enabled = "", 0.0, True
        self._messages = ExitStack()

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # Called once for each stage: end the redirection of the one before.
        self._messages.close()
        self._messages.enter_context(messages_above())
        self._drawn = time.monotonic()  # what takes no time needs no bar

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.close()
        self._messages.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar, so that the error message starts on a line of its own."""
        self.close()
        self._messages.close()

    def close(self) -> None:
        """Remove the bar, if there is one, from the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def is_due(self) -> bool:
        """Whether to draw the bar after this batch; notes the time if so."""
        now = time.monotonic()
        if not self._enabled or now - self._drawn < REDRAW_SECONDS:
            return False
        self._drawn = now
        return True

    def draw(self, title: str, done: int, total: float, words: str = "") -> None:
        """Draw the bar of ``title`` with ``done`` of ``total`` batches, and words behind it."""
        # of each drawing: people resize windows; None: not a terminal
        width = terminal_width(sys.stderr)
        columns = width - KEPT_COLUMNS if width else None
        if self._bar is None or self._title != title:
            self.close()
            self._title = title
            self._bar = tqdm(
                desc=title,
                initial=done,
                total=int(total) if total < float("inf") else None,
                file=sys.stderr,
                disable=False,  # not left to tqdm: its environment variable is for other bars
                leave=False,
                ncols=columns,
                smoothing=0,
                bar_format=BAR_FORMAT,
                postfix=words,  # at once: tqdm draws a new bar, which would be drawn twice
            )
            return
        self._bar.n, self._bar.ncols = done, columns
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.refresh()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not self.is_due():
            return
        # Lightning divides it by the number of batches that one update accumulates.
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        planned, number = planned_epochs(trainer), trainer.current_epoch + 1
        title = f"epoch {number}/{planned}" if planned else f"epoch {number}"
        self.draw(title, batch_idx + 1, self.total_train_batches, f"loss {loss:.3f}")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.is_due() and not trainer.sanity_checking:
            self.draw("validating", batch_idx + 1, trainer.num_val_batches[dataloader_idx])

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.is_due():
            self.draw("testing", batch_idx + 1, trainer.num_test_batches[dataloader_idx])

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.is_due():
            self.draw("predicting", batch_idx + 1, trainer.num_predict_batches[dataloader_idx])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()


def planned_epochs(trainer: pl.Trainer) -> int | None:
    """Number of epochs until max_epochs or max_steps; None if neither ends the training."""
    limits = [trainer.max_epochs or -1]
    if trainer.max_steps > 0 and math.isfinite(trainer.num_training_batches):
        # rounded up: Lightning steps on the last batch even if the accumulation is not complete
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        limits.append(math.ceil(trainer.max_steps / steps))
    return min((limit for limit in limits if limit > 0), default=None)


def is_terminal() -> bool:
    """Whether bars can be drawn: standard error is a terminal, not a file or a pipe."""
    return sys.stderr is not None and sys.stderr.isatty()


def print_above(*lines: str) -> None:
    """Print lines to standard output at once; a bar is drawn again below them."""
    with tqdm.external_write_mode(file=sys.stdout):
        print(*lines, sep="\n", flush=True)


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
