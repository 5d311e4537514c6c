"""What Lightning's hooks cost: a step has sixty of them, and most do nothing.

callbacks, profiler -> the same, quicker
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import PassThroughProfiler

STEP_HOOKS = tuple(
    name
    for name in vars(Callback)
    if "_batch_" in name or name.startswith(("on_before_", "on_after_"))
)


class Unprofiled(PassThroughProfiler):
    """Lightning's profiler that profiles nothing, without the price of a generator per hook."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.nothing


def skip_idle_hooks(callbacks: Sequence[Callback]) -> None:
    """Leave out the hooks of steps that a callback inherits from ``Callback``, which do nothing.

    Lightning calls what is callable; what a subclass defines stays as it is.
    """
    for callback in callbacks:
        for name in STEP_HOOKS:
            if getattr(type(callback), name) is getattr(Callback, name):
                setattr(callback, name, None)
