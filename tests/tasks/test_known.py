"""Which task some settings, targets or a table are of."""

import pytest
import torch

from vitlit.errors import InputError
from vitlit.tasks.known import KINDS, kind_of_table, kind_of_targets, make_task
from vitlit.tasks.task import Row


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
