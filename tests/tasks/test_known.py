"""Which task some settings, targets or a table are of, and targets of each in words."""

from typing import Any

import pytest
import torch

from vitlit.errors import InputError
from vitlit.tasks.known import KINDS, kind_of_table, kind_of_targets, make_task
from vitlit.tasks.task import Row, TaskName


def test_checkpoints_that_name_no_task_are_of_one_class_for_each_image() -> None:
    assert make_task({"lr": 0.1}).name == "single_label"


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(InputError, match="unknown task 'segmentation'"):
        make_task({"task": "segmentation"})


def test_the_type_of_the_targets_tells_the_task() -> None:
    assert len({kind.dtype for kind in KINDS.values()}) == len(KINDS)
    assert kind_of_targets(torch.tensor([2, 0])).name == "single_label"


def test_a_table_with_a_column_of_classes_is_of_one_class_for_each_image() -> None:
    row = Row("line 2", "a.png", {"file": "a.png", "class": "cat"})
    assert kind_of_table(["file", "class"], [row]).name == "single_label"


def test_targets_are_named_with_their_shares() -> None:
    def words(task: TaskName, targets: list[Any]) -> list[str]:
        return [KINDS[task].target_words(target, names) for target in torch.tensor(targets)]

    names = ["ant", "bee", "cow"]
    assert words("single_label", [2, 0]) == ["cow", "ant"]
    mixed = [[0.0, 1.0, 0.0], [0.3, 0.0, 0.7]]
    assert words("single_label", mixed) == ["bee", "cow 0.70, ant 0.30"]
    assert words("multi_label", [[1, 0, 1], [0, 0, 0]]) == ["ant; cow", "none"]
    assert words("multi_label", [[0.3, 1.0, 0.0]]) == ["ant 0.30; bee"]
    assert words("regression", [[2.5]]) == ["2.5"]
