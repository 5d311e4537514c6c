"""Hooks that do nothing are skipped, and no others."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.demos.boring_classes import BoringModel

from vitlit.commands.fit_callbacks import make_guards
from vitlit.commands.trainer import skip_idle_hooks
from vitlit.errors import InputError


def test_idle_hooks_are_skipped_and_others_called(tmp_path: Path) -> None:
    called = []

    class Counts(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            called.append("on_train_batch_end")

        def on_before_zero_grad(self, *_: Any) -> None:
            called.append("on_before_zero_grad")

    class CountsMore(Counts):
        def on_before_zero_grad(self, *_: Any) -> None:
            super().on_before_zero_grad()
            called.append("more")

    callbacks = [Counts(), CountsMore()]
    skip_idle_hooks(callbacks)
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        fast_dev_run=1,
        callbacks=callbacks,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    trainer.fit(BoringModel())
    assert sorted(called) == ["more"] + ["on_before_zero_grad"] * 2 + ["on_train_batch_end"] * 2
    assert all(callback.on_validation_batch_end is None for callback in callbacks[:2])


def test_a_hook_that_a_callback_binds_to_itself_stays() -> None:
    steps: list[int] = []
    callback = LambdaCallback(on_train_batch_end=lambda *args: steps.append(args[-1]))
    skip_idle_hooks([callback])
    callback.on_train_batch_end(None, None, None, None, 3)  # type: ignore[arg-type]
    assert steps == [3]
    assert callback.on_train_batch_start is None


@pytest.mark.parametrize("seconds", [0.0, float("inf"), float("nan"), 1e20])
def test_a_timeout_out_of_range_is_refused(seconds: float) -> None:
    with pytest.raises(InputError, match=re.escape(f"timeout_seconds {seconds} is not above 0")):
        make_guards({"timeout_seconds": seconds})


def test_several_processes_do_not_validate_by_the_clock() -> None:
    settings = {"timeout_seconds": 9, "nonfinite": {"skip": 0}}
    settings["trainer"] = {"val_check_interval": "00:00:10:00"}
    guards = make_guards(settings)
    with pytest.raises(InputError, match="val_check_interval is a time"):
        guards.fit(SimpleNamespace(world_size=2))  # type: ignore[arg-type]


def test_one_batch_is_not_all_of_them_whoever_was_imported_first() -> None:
    program = (
        "import sklearn.metrics\n"  # which has Optional[Union[float, int]]
        "from vitlit.__main__ import main\n"
        "main(['fit', '--trainer.limit_val_batches=1', '--trainer.limit_test_batches=1.0',"
        "'--print_config'])"
    )
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "  limit_val_batches: 1\n" in told
    assert "  limit_test_batches: 1.0\n" in told
