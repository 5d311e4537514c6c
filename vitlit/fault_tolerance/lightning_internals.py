"""Every private name of Lightning and torch that the package uses, and what each one is for.

trainer, loops, gradients -> what no public name tells or changes

A new version may take any of them away. `tests/test_private_names.py` then says which one is
missing and what no longer works, and that no other module uses one, except `parser_internals.py`,
which has those of the parser.
"""

import math
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
    """Keep the trainer from registering signal handlers, and from exchanging signals.

    ``SLURMEnvironment(auto_requeue=False)`` switches off the handler of SIGUSR1 alone. Lightning's
    handler of SIGTERM broadcasts from within the handler, which hangs where other processes are
    in another collective (Lightning issue 20806), and it is registered after the last hook before
    the sanity check, so that a hook cannot put ours back in time.
    """
    trainer._signal_connector = Unsignalled()  # type: ignore[assignment]
    # Lightning broadcasts in each step whether the first process got SIGTERM, and waits for the
    # device (Lightning issue 21487); a Trainer has no option for that yet (pull request 21640).
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = _nothing


def _nothing() -> None: ...


def use_bucket_views(trainer: pl.Trainer) -> None:
    """Let DDP keep gradients in the buckets that it sends, instead of copying them back and forth.

    A copy of all gradients less is held, and the sums are the same. A config may name DDPStrategy
    with other arguments, but strategies called ddp or auto take none.
    """
    arguments = getattr(trainer.strategy, "_ddp_kwargs", None)
    if arguments is not None:  # the strategy is DDP
        arguments.setdefault("gradient_as_bucket_view", True)


def is_validation_due(trainer: pl.Trainer) -> bool:
    """Whether a validation follows the batch that was trained on last.

    Lightning decides by seven settings of the trainer and the loop. After a restart it asks the
    same method, so another answer than its own would repeat or skip a validation.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    return loop._should_check_val_fx(None)  # a data fetcher; only its type matters


def leave_epoch(trainer: pl.Trainer) -> None:
    """Let a training that restarts after the last batch of an epoch end that epoch.

    Lightning does so once a validation has run, and where none is due trains on one batch more
    (training_epoch_loop.py, ``_is_validation_done``).
    """
    loop: Any = trainer.fit_loop.epoch_loop.val_loop
    loop._has_run = True


def set_logged_steps(trainer: pl.Trainer, steps: int) -> None:
    """Make loggers continue to count from ``steps``.

    Lightning saves the number before it counts the step in which a checkpoint is written, and
    corrects it when restarting only where it guesses right (Lightning issues 12274 and 19367).
    """
    loop: Any = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped = steps


# Of float dtypes, those that the CUDA kernel below has: bfloat16 is missing (pytorch issue 127176).
DTYPES_OF_CUDA = (torch.float16, torch.float32, torch.float64)


def non_finite(tensors: list[Tensor]) -> Tensor:
    """1 if any number of the tensors is infinite or NaN, else 0: float32 ``()``.

    Uses the kernel with which gradient scalers check gradients; here it multiplies them by 1.
    Public functions are wrong or slow: the Euclidean norm of large finite gradients overflows (in
    float32 above 2e19), and ``isfinite`` takes ten times as long. On CUDA the kernel lacks some
    dtypes, for which the maximum norm takes a few launches more. All tensors are on one device, and
    nothing waits for it.
    """
    found = torch.zeros((), device=tensors[0].device)
    one = torch.ones_like(found)
    # The kernel takes tensors of one dtype only.
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for dtype, same in by_dtype.items():
        if found.is_cuda and dtype not in DTYPES_OF_CUDA:
            found = torch.maximum(found, non_finite_by_norm(same))
        else:
            torch._amp_foreach_non_finite_check_and_unscale_(same, found, one)
    return found


def non_finite_by_norm(tensors: list[Tensor]) -> Tensor:
    """As :func:`non_finite`, for tensors of one dtype, whichever it is.

    The largest absolute value is exact in every dtype, never overflows, and NaN passes through.
    """
    largest = torch.nn.utils.get_total_norm(tensors, math.inf)
    return (~largest.isfinite()).float()
