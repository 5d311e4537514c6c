"""What Lightning's callbacks lack: ties, and names that are free."""

from pathlib import Path

import pytest
import torch

from vitlit.callbacks import BestCheckpoint, free_name


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


def test_a_free_name_counts_up(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert free_name(path) == path
    path.touch()
    assert free_name(path) == tmp_path / "a-2.csv"
    (tmp_path / "a-2.csv").touch()
    assert free_name(path) == tmp_path / "a-3.csv"
