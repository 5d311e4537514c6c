"""Every private name of Lightning and torch that the package uses, and what each one buys.

trainer, loops, gradients -> what no public name tells or changes

A new version may take any of them away. `tests/test_private_names.py` then says which one is
missing and what no longer works, and sees to it that no other module uses one: but for
`parser_internals.py`, which has those of the parser.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor


class Unsignalled:
    """In place of Lightning's signal connector: registers no handlers."""

    received_sigterm = False

    def register_signal_handlers(self) -> None: ...

    def teardown(self) -> None: ...


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Let the trainer register no signal handlers, and speak of no signals between processes.

    ``SLURMEnvironment(auto_requeue=False)`` switches off the handler of SIGUSR1 alone. Lightning's
    handler of SIGTERM broadcasts from within the handler, which hangs where other processes are
    in another collective (Lightning issue 20806), and it is registered after the last hook before
    the sanity check, so that a hook cannot put ours back in time.
    """
    trainer._signal_connector = Unsignalled()  # type: ignore[assignment]
    # Lightning's word for it, from the first process alone, waits for the device in each step
    # (Lightning issue 21487); a Trainer has no option for that yet (pull request 21640)
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = _nothing


def _nothing() -> None: ...


def is_validation_due(trainer: pl.Trainer) -> bool:
    """Whether a validation follows the batch that was trained on last.

    Lightning decides by seven settings of the trainer and the loop; after a restart it asks the
    same method, and to answer otherwise than it does would repeat or skip a validation.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    return loop._should_check_val_fx(None)  # a data fetcher, of which it asks the type alone


def set_logged_steps(trainer: pl.Trainer, steps: int) -> None:
    """Let loggers go on counting from ``steps``.

    Lightning saves the number before it counts the step in which a checkpoint is written, and
    corrects it when restarting only where it guesses right (Lightning issues 12274 and 19367).
    """
    loop: Any = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped = steps


def non_finite(tensors: list[Tensor]) -> Tensor:
    """1 where a number of any tensor is infinite or not one, else 0: float32 ``()``.

    By the kernel that gradient scalers check gradients with; it multiplies them by 1. Public
    ways are wrong or slow: the norm of large finite gradients overflows (in float32 above 2e19),
    and ``isfinite`` takes ten times as long. The tensors are of one device.
    """
    found = torch.zeros((), device=tensors[0].device)
    one = torch.ones_like(found)
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for same in by_dtype.values():
        torch._amp_foreach_non_finite_check_and_unscale_(same, found, one)
    return found
