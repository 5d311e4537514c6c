"""The sweep over inductive biases: its models, its table and its picture."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import inductive_bias
from inductive_bias import CNN, SETTINGS, TASKS, PlainCNN, accuracy, classifier, draw, table

from vitlit.datamodule import ImageData

SCORES = {("a", 0.1): [0.5, 0.7], ("a", 1.0): [0.9, 0.9], (CNN, 0.1): [0.2], (CNN, 1.0): [0.4]}


def test_the_table_holds_mean_and_deviation_by_share() -> None:
    rows = table(SCORES).splitlines()
    assert rows[0] == "| setting | 10% | 100% |"
    assert rows[2:] == [
        "| a | 0.6000 +- 0.1414 | 0.9000 +- 0.0000 |",
        "| CNN | 0.2000 | 0.4000 |",
    ]


def test_the_picture_is_drawn_from_the_scores(tmp_path: Path) -> None:
    draw(SCORES, "title", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.parametrize("dataset", TASKS)
def test_every_setting_fits_every_task(dataset: Any, tmp_path: Path) -> None:
    task = TASKS[dataset]
    sizes = {"digits": (1, 8), "mnist": (1, 28), "cifar10": (3, 32)}[dataset]
    data: Any = Namespace(in_chans=sizes[0], img_size=sizes[1], num_classes=10)
    for name in [*SETTINGS, CNN]:
        model = classifier(name, task, data)
        images = torch.randn(2, sizes[0], sizes[1], sizes[1])
        assert model(images).shape == (2, 10)


def test_the_yardstick_has_no_attention_and_no_batch_norm() -> None:
    kinds = {type(module).__name__ for module in PlainCNN(3, 10).modules()}
    assert not any("Norm" in kind or "Attention" in kind for kind in kinds)


@pytest.mark.parametrize("name", ["plain ViT", "SPT + LSA", CNN])
def test_a_training_ends_with_the_accuracy_on_the_test_images(name: str) -> None:
    args = Namespace(dataset="digits", data_dir=None, device="cpu", steps=2)
    task, seen = TASKS["digits"], []
    original = ImageData.setup

    def setup(self: ImageData, stage: str) -> None:
        original(self, stage)
        seen.append((stage, len(self.splits["train"])))

    ImageData.setup = setup  # type: ignore[method-assign]
    try:
        found = accuracy(name, task, 0.05, 1, args)
    finally:
        ImageData.setup = original  # type: ignore[method-assign]
    assert 0 < found < 1
    assert [stage for stage, _ in seen] == ["fit", "test"]
    assert seen[0][1] == pytest.approx(0.05 * 1295, abs=5)


def test_quick_runs_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["inductive_bias.py", "digits", "--quick", "--write"])
    with pytest.raises(SystemExit):
        inductive_bias.parse_args()
