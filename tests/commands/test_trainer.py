"""Hooks that do nothing are skipped, and no others."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel

from vitlit.commands.trainer import skip_idle_hooks


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
