"""The sweep over inductive biases: its models, its table and its picture."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import bias_scores
import inductive_bias
import pytest
import torch
from bias_scores import CNN, Score, draw, table
from inductive_bias import ON_CPU, SETTINGS, TASKS, PlainCNN, accuracy, classifier, steps_of

from vitlit.data.datamodule import PlainImageData


def score(setting: str, share: float, seed: int, accuracy: float) -> Score:
    return Score("0a", setting, share, seed, round(100 * share), 8, accuracy, 1.5 + seed)


SCORES = [
    score("a", 0.1, 0, 0.5),
    score("a", 0.1, 1, 0.7),
    score("a", 1.0, 0, 0.9),
    score("a", 1.0, 1, 0.9),
    score(CNN, 0.1, 0, 0.2),
    score(CNN, 1.0, 0, 0.4),
]


def test_the_table_holds_mean_and_deviation_by_share() -> None:
    rows = table(SCORES).splitlines()
    assert rows[0] == "| setting | 10% | 100% | seconds |"
    assert rows[2:] == [
        "| images | 10 | 100 |  |",
        "| steps | 8 | 8 |  |",
        "| a | 0.6000 +- 0.1414 | 0.9000 +- 0.0000 | 2 |",
        "| CNN | 0.2000 | 0.4000 | 2 |",
    ]


@pytest.mark.draws
def test_the_picture_is_drawn_from_the_scores(tmp_path: Path) -> None:
    draw(SCORES, [score.setting for score in SCORES], "title", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_kept_scores_are_read_as_they_were(tmp_path: Path) -> None:
    assert bias_scores.read(tmp_path / "a.csv") == []
    for one in SCORES:
        bias_scores.append(tmp_path / "a.csv", one)
    assert bias_scores.read(tmp_path / "a.csv") == SCORES


def test_a_line_that_was_cut_short_costs_that_score_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    bias_scores.append(path, SCORES[0])
    bias_scores.append(path, SCORES[1])
    path.write_text(path.read_text()[:-12])
    bias_scores.append(path, SCORES[2])
    assert bias_scores.read(path) == [SCORES[0], SCORES[2]]


def sweep_args(path: Path, steps: int, seeds: list[int]) -> Namespace:
    found = {"task": TASKS["digits"], "source": {"dataset": "digits"}, "folder": False}
    found |= {"device": "cpu", "settings": ["rope", CNN], "shares": [0.1, 1.0]}
    return Namespace(**found, scores=path, steps=steps, seeds=seeds)


def test_a_sweep_that_was_stopped_trains_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, float, int]] = []

    def accuracy(name: str, task: Any, share: float, seed: int, args: Any) -> tuple[float, int]:
        trained.append((name, share, seed))
        return 0.5, 10

    monkeypatch.setattr(inductive_bias, "accuracy", accuracy)
    inductive_bias.sweep(sweep_args(tmp_path / "a.csv", 8, [0]))
    assert len(trained) == 4
    found = inductive_bias.sweep(sweep_args(tmp_path / "a.csv", 8, [0, 1]))
    assert [one[2] for one in trained[4:]] == [1] * 4
    assert [tuple(one[1:4]) for one in found[:3]] == [
        ("rope", 0.1, 0),
        ("rope", 0.1, 1),
        ("rope", 1.0, 0),
    ]
    inductive_bias.sweep(sweep_args(tmp_path / "a.csv", 9, [0]))
    assert len(trained) == 12  # another number of steps is another training


def test_steps_grow_with_the_cube_root_of_the_share() -> None:
    assert [steps_of(share, 1000) for share in (1.0, 0.125, 0.001)] == [1000, 500, 100]


@pytest.mark.parametrize(
    ("dataset", "task"),
    [*TASKS.items(), *ON_CPU.items()],
    ids=[*TASKS, *(f"{name}, cpu" for name in ON_CPU)],
)
def test_every_setting_fits_every_task(dataset: str, task: Any) -> None:
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
    args = Namespace(source={"dataset": "digits"}, data_dir=None, device="cpu", steps=2)
    task, seen = TASKS["digits"], []
    original = PlainImageData.setup

    def setup(self: PlainImageData, stage: str) -> None:
        original(self, stage)
        seen.append((stage, len(self.splits["train"])))

    PlainImageData.setup = setup  # type: ignore[method-assign]
    try:
        found = accuracy(name, task, 0.05, 1, args)
    finally:
        PlainImageData.setup = original  # type: ignore[method-assign]
    assert 0 < found[0] < 1
    assert found[1] == seen[0][1]
    assert [stage for stage, _ in seen] == ["fit", "test"]
    assert seen[0][1] == pytest.approx(0.05 * 1295, abs=5)


def test_quick_runs_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["inductive_bias.py", "digits", "--quick", "--write"])
    with pytest.raises(SystemExit):
        inductive_bias.parse_args()


def test_files_take_the_place_of_a_set_and_a_processor_takes_a_smaller_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["cifar10", "--data-dir", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["inductive_bias.py", *words])
    own = inductive_bias.parse_args()
    monkeypatch.setattr(sys, "argv", ["inductive_bias.py", *words, "--folder"])
    files = inductive_bias.parse_args()
    assert own.source == {"dataset": "cifar10"}
    assert own.task.model["embed_dim"] < TASKS["cifar10"].model["embed_dim"]
    assert (files.source["dataset"], files.source["img_size"]) == ("folder", 32)
    assert files.source["mean"] == [0.4914, 0.4822, 0.4465]
    assert inductive_bias.digest(CNN, own) != inductive_bias.digest(CNN, files)
