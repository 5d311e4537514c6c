"""What Lightning's callbacks lack: ties, and names that are free."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel

from vitlit.training.checkpoint_callbacks import BestCheckpoint, LastCheckpoint


@pytest.mark.parametrize(("score", "kept"), [(0.6, True), (0.5, True), (0.4, False)])
def test_of_equal_scores_the_later_one_is_best(score: float, kept: bool) -> None:
    callback = BestCheckpoint()
    callback.best_model_score = torch.tensor(0.5)
    callback.best_k_models = {"best.ckpt": torch.tensor(0.5)}
    callback.kth_best_model_path = "best.ckpt"
    trainer = Reducing()
    assert callback.check_monitor_top_k(trainer, torch.tensor(score)) is kept  # type: ignore[arg-type]


SCORE = torch.tensor(0.9)


@pytest.mark.parametrize(
    ("changes", "is_restored"),
    [
        ({}, True),
        ({"dirpath": "/moved/second/checkpoints"}, False),
        ({"monitor": "val/loss"}, False),
        ({"best_model_score": "0.9"}, False),
    ],
    ids=str,
)
def test_the_score_to_beat_is_restored_in_its_own_run_alone(
    changes: dict[str, str], is_restored: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "first" / "checkpoints"
    state = {"dirpath": "/moved/first/checkpoints", "monitor": "val/acc", "best_model_score": SCORE}
    callback = BestCheckpoint(folder)
    callback.load_state_dict({**state, **changes})
    assert (callback.best_model_score is SCORE) is is_restored
    assert callback.best_model_path == (str(folder / "best.ckpt") if is_restored else "")


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
