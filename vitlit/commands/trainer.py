"""Lightning's Trainer with more commands, and without the hooks that do nothing.

callbacks, module, profiler -> the same, without the calls that do nothing

A step calls sixty hooks; `benchmarks/loop_overhead.md` has what a step costs over a bare loop.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.profilers import PassThroughProfiler

from vitlit.cli.options import add_predict_options, add_test_options, describe_options
from vitlit.cli.overview import COMMANDS
from vitlit.cli.parser import Parser
from vitlit.commands.own_commands import Commands

OWN_COMMANDS = ("explain", "export", "compare", "probe", "anomaly")  # those that Lightning lacks
UPDATE_HOOKS = tuple(
    name for name in vars(Callback) if name.startswith(("on_before_", "on_after_"))
)
STEP_HOOKS = UPDATE_HOOKS + tuple(name for name in vars(Callback) if "_batch_" in name)
# limit_test_batches 1 is one batch, and 1.0 all of them. Lightning writes Optional[Union[int,
# float]]; for equal types Python keeps one object, that of whoever came first, and the parser takes
# the first kind that fits. Where scikit-learn came first, with the float in front, 1 became 1.0.
ANNOTATIONS = pl.Trainer.__init__.__annotations__
ANNOTATIONS |= {name: int | float | None for name in ANNOTATIONS if name.startswith("limit_")}


class Trainer(Commands, pl.Trainer):
    """Adds commands of our own, pretrain among them, to fit, validate, test and predict."""

    @property
    def root_device(self) -> torch.device:  # type: ignore[override]
        """The device of this process."""
        return self.strategy.root_device

    @property
    def root(self) -> str:  # type: ignore[override]
        """The folder that holds lightning_logs, in which other commands than fit begin."""
        return str(Path(self.default_root_dir).parent)

    def pretrain(
        self,
        model: Any,
        datamodule: Any = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train a masked autoencoder as ``fit`` does a classifier.

        Args:
            model: The module.
            datamodule: Its data.
            ckpt_path: The checkpoint to resume from.
            weights_only: Whether code in it is never executed.
        """
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only)


class Unprofiled(PassThroughProfiler):
    """Lightning's profiler that profiles nothing, without the cost of a generator per hook."""

    # One object for all hooks, even nested ones: nullcontext holds no state between them.
    nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.nothing


def skip_idle_hooks(owners: Iterable[Callback | pl.LightningModule]) -> None:
    """Disable the per-step hooks that callbacks and a module merely inherit: those do nothing.

    Hooks that a subclass defines stay. Call it after all callbacks are known.
    """
    for owner in owners:
        is_callback = isinstance(owner, Callback)
        base: type = Callback if is_callback else pl.LightningModule
        # Lightning inspects a module's batch hooks before it calls them; None would break that.
        for name in STEP_HOOKS if is_callback else UPDATE_HOOKS:
            is_inherited = getattr(type(owner), name) is getattr(base, name)
            if is_inherited and name not in vars(owner):  # LambdaCallback sets its own there
                setattr(owner, name, None)  # Lightning skips a hook that is not callable


class CommandParser(Parser, LightningArgumentParser):
    """Parser of one command: options of the Trainer's method, and those that we add to it."""

    def add_method_arguments(
        self, class_type: type, method_name: str, *args: Any, **kwargs: Any
    ) -> list[str]:
        added = super().add_method_arguments(class_type, method_name, *args, **kwargs)
        # Lightning's description is the docstring of the method, written for Python.
        self.description = COMMANDS[method_name]
        if method_name not in OWN_COMMANDS:
            self.set_defaults({"weights_only": True})
            describe_options(self)
        if method_name in ("validate", "test"):
            self.set_defaults({"verbose": False})  # our last lines show the scores
        if method_name == "test":
            add_test_options(self)
        if method_name == "predict":
            add_predict_options(self)
        return added
