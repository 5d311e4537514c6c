"""Tables of several classes an image, and what is made of them."""

from pathlib import Path

import pytest
import torch

from vitlit.data.csv_labels import find_task, label_names, labelled_images, read_labels
from vitlit.errors import InputError
from vitlit.tasks.multi_label import MultiLabel, check_thresholds

LIST = "file,classes\na.png,cat;dog\nb.png,\nc.png,dog\n"
BARS = "file,class\na.png,cat | dog\nb.png,\nc.png,dog\n"
COLUMNS = "file,cat,dog\na.png,1,1\nb.png,0,0\nc.png,0,1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    return tmp_path


def table(folder: Path, text: str) -> Path:
    file = folder / "labels.csv"
    file.write_text(text)
    return file


@pytest.mark.parametrize("text", [LIST, BARS, COLUMNS])
def test_all_forms_of_a_table_say_the_same(text: str, folder: Path) -> None:
    file = table(folder, text)
    assert find_task(None, file) == "multi_label"
    assert label_names(file, folder, "multi_label") == ["cat", "dog"]
    how = {"in_chans": 3, "size": (8, 8), "task": "multi_label"}
    found = labelled_images(file, folder, ["dog", "cow", "cat"], **how)  # type: ignore[arg-type]
    assert found.labels.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("text", ["file,class\na.png,cat\n", "file,note\na.png,1\n", "file\n"])
def test_other_tables_are_of_one_class_for_each_image(text: str, folder: Path) -> None:
    assert find_task(None, table(folder, text)) == "single_label"


def test_a_class_with_an_odd_name_can_be_asked_for(folder: Path) -> None:
    file = table(folder, "file,class\na.png,cat;dog\n")
    assert find_task("single_label", file) == "single_label"
    assert label_names(file, folder, "single_label") == ["cat;dog"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (COLUMNS.replace("b.png,0,0", "b.png,0,2"), "line 3: '2' in column dog is neither 0 nor 1"),
        (COLUMNS.replace("b.png,0,0", "b.png,0"), "line 3: '' in column dog is neither 0 nor 1"),
        (
            LIST.replace("c.png,dog", "c.png,dog|cat"),
            "line 4: .* by '.', and other cells do",
        ),
        (LIST.replace("cat;dog", "cat;;dog"), "line 2: 'cat;;dog' names a class twice or"),
        (LIST.replace("cat;dog", "cat;cat"), "line 2: 'cat;cat' names a class twice or"),
        (LIST + "a.png,cat\n", "line 5: a.png has the classes cat, and cat;dog in an earlier line"),
        ("file,class\na.png,cat\n", "its column class gives each image one class: name the column"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(text: str, part: str, folder: Path) -> None:
    with pytest.raises(InputError, match=part):
        read_labels(table(folder, text), folder, "multi_label")


def test_models_of_one_class_refuse_several(folder: Path) -> None:
    how = {"in_chans": 3, "size": (8, 8)}
    with pytest.raises(InputError, match="several classes in a cell need a model of the task"):
        labelled_images(table(folder, BARS.replace("b.png,\n", "")), folder, ["cat", "dog"], **how)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="its column classes is of the task multi_label"):
        read_labels(table(folder, LIST), folder)


def test_a_class_without_training_images_is_refused() -> None:
    targets = torch.tensor([[1, 0], [1, 0]], dtype=torch.int8)
    with pytest.raises(InputError, match="no training image has the class dog; give it images"):
        MultiLabel.check_training(targets, ["cat", "dog"])


def test_common_sets_of_labels_are_strata_and_rare_ones_are_one_together() -> None:
    rows = [[1, 0]] * 12 + [[1, 1]] * 3 + [[0, 1]] * 2
    groups = MultiLabel.strata(torch.tensor(rows, dtype=torch.int8)).tolist()
    assert len(set(groups[:12])) == 1
    assert groups[12:] == [0] * 5
    assert groups[0] != 0


@pytest.mark.parametrize(
    ("thresholds", "task", "part"),
    [
        ([0.5, 0.5], "single_label", "the task is single_label; leave them out"),
        ([0.5], "multi_label", "0.5 are not 2 numbers from 0 to 1"),
        ([0.5, 1.5], "multi_label", "0.5, 1.5 are not 2 numbers"),
    ],
)
def test_thresholds_that_fit_nothing_are_refused(
    thresholds: list[float], task: str, part: str
) -> None:
    with pytest.raises(InputError, match=part):
        check_thresholds(thresholds, task, 2)


def test_a_column_whose_name_looks_like_two_classes_is_refused(folder: Path) -> None:
    file = table(folder, COLUMNS.replace("cat", "cat;tom"))
    with pytest.raises(InputError, match=r"column cat;tom has a ';' in its name"):
        label_names(file, folder, "multi_label")


def test_a_column_of_targets_beside_a_flag_is_regression(folder: Path) -> None:
    file = table(folder, "file,target,night\na.png,1,0\nb.png,5,1\nc.png,0,1\n")
    assert find_task(None, file) == "regression"
