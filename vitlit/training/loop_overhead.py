"""What Lightning's hooks cost: a step has sixty of them, and most do nothing.

callbacks, profiler -> the same, quicker
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import PassThroughProfiler

UPDATE_HOOKS = tuple(
    name for name in vars(Callback) if name.startswith(("on_before_", "on_after_"))
)
STEP_HOOKS = UPDATE_HOOKS + tuple(name for name in vars(Callback) if "_batch_" in name)


class Unprofiled(PassThroughProfiler):
    """Lightning's profiler that profiles nothing, without the price of a generator per hook."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.nothing


def skip_idle_hooks(owners: Iterable[Callback | pl.LightningModule]) -> None:
    """Leave out the hooks of steps that callbacks and a module inherit, which do nothing.

    Lightning calls what is callable; what a subclass defines stays as it is.
    """
    for owner in owners:
        is_callback = isinstance(owner, Callback)
        base: type = Callback if is_callback else pl.LightningModule
        for name in STEP_HOOKS if is_callback else UPDATE_HOOKS:  # Lightning looks into the others
            if getattr(type(owner), name) is getattr(base, name):
                setattr(owner, name, None)
