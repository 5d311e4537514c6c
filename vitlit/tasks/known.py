"""The tasks that there are, and which of them some settings, targets or a table are of.

name | targets | head and rows of a table -> Task
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vitlit.errors import InputError, check_choice
from vitlit.tasks.multi_label import MultiLabel
from vitlit.tasks.regression import Regression
from vitlit.tasks.single_label import SingleLabel
from vitlit.tasks.task import Row, Task, TaskName

DEFAULT_TASK: TaskName = "single_label"
KINDS: dict[TaskName, type[Task]] = {
    "single_label": SingleLabel,
    "multi_label": MultiLabel,
    "regression": Regression,
}


def make_task(settings: Mapping[str, Any]) -> Task:
    """The task of a model with these settings; checkpoints of earlier versions name none."""
    name = settings.get("task", DEFAULT_TASK)
    check_choice(tuple(KINDS), task=name)
    if settings.get("loss") is not None and name != "regression":
        raise InputError(
            f"loss {settings['loss']} is of regression, and the labels are classes; leave it out, "
            f"or name the column of numbers with target",
            argument=("loss", "target"),
        )
    return KINDS[name](settings)


DEFAULT = make_task({})


def check_same_task(asked: str | None, has: str, source: object) -> None:
    """Refuse labels of another task than that of the model which ``source`` holds."""
    if asked != has:
        raise InputError(
            f"task {asked} contradicts {source}, whose model was trained as {has}; leave it out, "
            f"or train another model",
            argument="task",
        )


def kind_of_targets(targets: Tensor) -> type[Task]:
    """The task whose targets these are."""
    return next(kind for kind in KINDS.values() if kind.dtype == targets.dtype)


def kind_of_table(head: Sequence[str], rows: Sequence[Row]) -> type[Task]:
    """The task that a table of labels is of; the default if it has no labels at all."""
    # the default last: several classes in a cell could be one class with an odd name
    others = (kind for name, kind in KINDS.items() if name != DEFAULT_TASK)
    return next((kind for kind in others if kind.label_columns(head, rows)), KINDS[DEFAULT_TASK])
