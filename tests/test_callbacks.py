"""What Lightning's callbacks lack: ties, and names that are free."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel

from vitlit.files import free_path
from vitlit.training.checkpoint_callbacks import BestCheckpoint, LastCheckpoint
from vitlit.training.ema import MovingAverage
from vitlit.training.loop_overhead import skip_idle_hooks


@pytest.mark.parametrize(("score", "kept"), [(0.6, True), (0.5, True), (0.4, False)])
def test_of_equal_scores_the_later_one_is_best(score: float, kept: bool) -> None:
    callback = BestCheckpoint()
    callback.best_model_score = torch.tensor(0.5)
    callback.best_k_models = {"best.ckpt": torch.tensor(0.5)}
    callback.kth_best_model_path = "best.ckpt"
    trainer = Reducing()
    assert callback.check_monitor_top_k(trainer, torch.tensor(score)) is kept  # type: ignore[arg-type]


class Reducing:
    """The part of a trainer that a checkpoint callback asks for its opinion."""

    class strategy:  # noqa: N801
        """Stands for Lightning's."""

        @staticmethod
        def reduce_boolean_decision(decision: bool) -> bool:
            return bool(decision)


class Worsening(BoringModel):
    """A model whose validation accuracy falls from epoch to epoch."""

    def on_validation_epoch_end(self) -> None:
        self.log("val/acc", 1.0 - self.current_epoch / 10)


def test_best_keeps_the_best_epoch_and_last_the_last(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=3,
        limit_train_batches=1,
        limit_val_batches=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[BestCheckpoint(), LastCheckpoint()],
    )
    trainer.fit(Worsening())
    files = {path.name: torch.load(path) for path in tmp_path.glob("checkpoints/*")}
    assert {name: content["epoch"] for name, content in files.items()} == {
        "best.ckpt": 0,
        "last.ckpt": 2,
    }


class Stepper(pl.LightningModule):
    """One weight that is 0 at first and grows by 1 in each step; notes it in each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.validated: list[float] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return -self.weight

    def validation_step(self, batch: torch.Tensor) -> None:
        self.validated.append(self.weight.item())

    def on_validation_epoch_end(self) -> None:
        self.log("val/acc", self.weight.detach())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def averaged(decay: float, steps: int) -> list[float]:
    """The moving average after each step, by its definition."""
    found = [1.0]
    for n in range(1, steps):
        kept = min(decay, (1 + n) / (10 + n))
        found.append(kept * found[-1] + (1 - kept) * (n + 1))
    return found


def step_through(folder: Path, *, epochs: int, ckpt_path: str | None = None) -> Stepper:
    """Epochs of five steps with an average, and a checkpoint after each."""
    model = Stepper()
    pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[MovingAverage(0.5), BestCheckpoint(), LastCheckpoint()],
    ).fit(model, torch.zeros(5, 1), torch.zeros(1, 1), ckpt_path=ckpt_path)
    return model


def test_the_average_forgets_the_start_and_is_what_is_validated(tmp_path: Path) -> None:
    model = step_through(tmp_path, epochs=3)
    expected = averaged(0.5, 15)
    assert model.validated == pytest.approx([expected[4], expected[9], expected[14]])


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_hold_the_average(tmp_path: Path, name: str) -> None:
    step_through(tmp_path, epochs=2)
    content = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt")
    assert content["state_dict"]["weight"].item() == pytest.approx(averaged(0.5, 10)[-1])


def test_the_model_ends_as_the_average(tmp_path: Path) -> None:
    assert step_through(tmp_path, epochs=2).weight.item() == pytest.approx(averaged(0.5, 10)[-1])


@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
def test_an_average_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    step_through(tmp_path, epochs=2)
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    resumed = step_through(tmp_path, epochs=3, ckpt_path=path)
    assert resumed.validated == pytest.approx([averaged(0.5, 15)[-1]])


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_an_average_takes_weights_of_any_precision(tmp_path: Path, precision: Any) -> None:
    model = Stepper()
    pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=5,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[MovingAverage(0.5)],
    ).fit(model, torch.zeros(5, 1), torch.zeros(1, 1))
    assert model.weight.item() == pytest.approx(averaged(0.5, 5)[-1], rel=0.01)


def test_a_free_name_counts_up(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert free_path(path) == path
    path.touch()
    assert free_path(path) == tmp_path / "a-2.csv"
    (tmp_path / "a-2.csv").touch()
    assert free_path(path) == tmp_path / "a-3.csv"


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
