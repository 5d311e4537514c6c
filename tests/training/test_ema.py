"""The moving average of the weights: what it forgets, and who uses it."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch

from vitlit.training.checkpoint_callbacks import BestCheckpoint, LastCheckpoint
from vitlit.training.ema import MovingAverage


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


def test_the_statistics_of_batch_norms_are_averaged_too(tmp_path: Path) -> None:
    average, trainer = MovingAverage(0.5), Mock(global_step=0)
    model: Any = Stepper()
    model.norm = torch.nn.BatchNorm1d(1)
    average.setup(trainer, model, "fit")
    average.on_train_start(trainer, model)
    seen, expected = 0.0, []
    for step in range(1, 6):
        model.norm(torch.full((2, 1), float(step)))
        seen = 0.9 * seen + 0.1 * step  # torch's own average
        kept = min(0.5, step / (9 + step)) if step > 1 else 0
        expected.append(kept * (expected[-1] if expected else 0) + (1 - kept) * seen)
        trainer.global_step = step
        average.on_train_batch_end(trainer, model, None, None, 0)
    content = {"state_dict": model.state_dict()}
    average.on_save_checkpoint(trainer, model, content)
    assert content["state_dict"]["norm.running_mean"].item() == pytest.approx(expected[-1])
    assert content["current_model_state"]["norm.running_mean"].item() == pytest.approx(seen)
    average.on_validation_epoch_start(trainer, model)
    assert model.norm.running_mean.item() == pytest.approx(expected[-1])
    average.on_validation_epoch_end(trainer, model)
    assert model.norm.running_mean.item() == pytest.approx(seen)


def test_the_weights_are_set_aside_once_and_only_for_an_average() -> None:
    average, model = MovingAverage(0.9), Stepper()
    trainer: Any = None
    average.on_validation_epoch_start(trainer, model)  # of a command that trains nothing
    average.on_validation_epoch_end(trainer, model)
    average.setup(trainer, model, "fit")
    model.weight.data += 5
    for _ in range(2):  # the average, 0, takes the place of the weights
        average.on_validation_epoch_start(trainer, model)
        assert model.weight.item() == 0
    average.on_validation_epoch_end(trainer, model)
    assert model.weight.item() == 5
