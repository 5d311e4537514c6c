"""Remarks on a training that has ended: when each one is made, and when not."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trainings import PLAIN, QUIET, SMALL

from vitlit.__main__ import main
from vitlit.commands.hints import (
    MAX_HINTS,
    Facts,
    Row,
    at_chance,
    blind_validation,
    hints,
    many_tokens,
    overfitting,
    predicts_one_class,
    rare_classes,
    still_falling,
    too_few_steps,
)

FACTS = Facts(
    class_names=["cat", "dog", "fox"],
    train_counts=[400, 300, 300],
    val_counts=[40, 30, 30],
    steps=1000,
    warmup=100,
    is_weighted=False,
    tokens=197,
    img_size=None,
    is_folder=True,
    is_pretrained=False,
)


def course(val: Sequence[float], train: Sequence[float] | None = None, **last: float) -> list[Row]:
    """Rows with these losses; last: scores of the final epoch."""
    train = [1 / (i + 1) for i in range(len(val))] if train is None else train
    rows = [
        {"epoch": float(i), "train/loss_epoch": one, "val/loss": other}
        for i, (one, other) in enumerate(zip(train, val, strict=True))
    ]
    rows[-1] |= {name.replace("val_", "val/"): value for name, value in last.items()}
    return rows


FLAT = [1.0] * 10
WELL = course(FLAT, val_acc=0.9, val_balanced_acc=0.89)


def test_nothing_is_said_of_a_good_training() -> None:
    assert hints(WELL, FACTS) == []


def test_nothing_is_said_of_a_training_without_validation() -> None:
    assert hints([{"epoch": 0.0, "train/loss_epoch": 1.0}], FACTS) == []
    assert hints([], FACTS) == []


@pytest.mark.parametrize(
    ("acc", "balanced", "is_said"),
    [
        (0.4, 1 / 3, True),  # all are cats
        (0.3, 1 / 3, True),  # all are dogs
        (0.4, 0.35, False),
        (0.5, 1 / 3, False),  # a mean recall of 1/3 by chance
    ],
)
def test_one_class_for_all_is_seen_in_the_two_accuracies(
    acc: float, balanced: float, is_said: bool
) -> None:
    rows = course(FLAT, val_acc=acc, val_balanced_acc=balanced)
    assert (predicts_one_class(rows, FACTS) is not None) == is_said
    assert ("one class" in " ".join(hints(rows, FACTS))) == is_said


def test_classes_without_validation_images_do_not_count_as_predicted() -> None:
    rows = course(FLAT, val_acc=0.5, val_balanced_acc=0.5)
    assert predicts_one_class(rows, replace(FACTS, val_counts=[50, 50, 0])) is not None
    assert predicts_one_class(rows, replace(FACTS, val_counts=[100, 0, 0])) is None


@pytest.mark.parametrize("acc", [0.33, 0.4, 0.49, 0.51, 0.9])
def test_chance_is_the_commonest_class_and_two_deviations(acc: float) -> None:
    rows = course(FLAT, val_acc=acc, val_balanced_acc=acc - 0.01)
    bound = 0.4 + 2 * math.sqrt(0.4 * 0.6 / 100)  # 0.498
    assert (at_chance(rows, FACTS) is not None) == (acc < bound)


def test_a_perfect_score_of_few_images_is_called_too_few_and_not_bad() -> None:
    said = blind_validation(course(FLAT, val_acc=1.0), replace(FACTS, val_counts=[2, 1, 0]))
    assert said is not None
    assert "3 validation images are too few to tell accuracy 1.000 from chance" in said
    assert "no better than chance" not in said


def test_a_split_of_one_class_is_called_that_and_no_fault_of_the_training() -> None:
    said = blind_validation(course(FLAT, val_acc=1.0), replace(FACTS, val_counts=[9, 0, 0]))
    assert said is not None
    assert said.startswith("all validation images (9) are of one class")
    assert "--model.lr" not in said


def test_a_good_epoch_in_between_is_above_chance() -> None:
    rows = course(FLAT, val_acc=0.4)
    rows[3]["val/acc"] = 0.7
    assert at_chance(rows, FACTS) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 99, "warmup": 0}, "in 99 updates a model learns little"),
        ({"steps": 99, "warmup": 200}, "within its warmup (99 of 200 updates)"),
        ({"steps": 500, "warmup": 500}, "within its warmup"),
        ({"steps": 100, "warmup": 99}, None),
        ({"steps": 99, "warmup": 0, "is_pretrained": True}, None),
    ],
)
def test_too_few_updates_are_named(changes: dict[str, Any], words: str | None) -> None:
    found = too_few_steps(WELL, replace(FACTS, **changes))
    assert found is None if words is None else found is not None and words in found


RISING = [1.0, 0.5, 0.4, 0.5, 0.6, 0.7, 0.8]


def test_overfitting_is_dated() -> None:
    found = overfitting(course(RISING))
    assert found is not None
    assert "since epoch 3: the validation loss rose from 0.400 to 0.700" in found


@pytest.mark.parametrize(
    ("val", "train"),
    [
        (RISING[:5], None),  # only two epochs since
        ([1.0, 0.5, 0.4, 0.41, 0.42, 0.43, 0.43], None),  # hardly rises
        (RISING, [1.0, 0.9, 0.8, 0.9, 1.0, 1.1, 1.2]),  # both rise: it diverges
        ([1.0] * 30 + [0.4, 0.5, 0.6, 0.7], None),  # less than a tenth of the epochs
    ],
)
def test_other_courses_are_no_overfitting(val: list[float], train: list[float] | None) -> None:
    assert overfitting(course(val, train)) is None


@pytest.mark.parametrize(
    ("counts", "changes", "balanced", "is_said"),
    [
        ([500, 100, 90], {}, 0.7, True),
        ([500, 100, 90], {}, 0.88, False),  # it does no harm
        ([500, 100, 90], {"is_weighted": True}, 0.7, False),
        ([400, 100, 90], {}, 0.7, False),  # 4.4 to 1
        ([500, 0, 90], {}, 0.7, True),  # a class without images is no rare one
    ],
)
def test_rare_classes_are_named_if_they_suffer(
    counts: list[int], changes: dict[str, Any], balanced: float, is_said: bool
) -> None:
    rows = course(FLAT, val_acc=0.9, val_balanced_acc=balanced)
    found = rare_classes(rows, replace(FACTS, train_counts=counts, **changes))
    assert (found is not None) == is_said
    if found is not None:
        assert "(fox has 90 of the training images)" in found


def test_names_of_rare_classes_are_cut_and_printable() -> None:
    rows = course(FLAT, val_acc=0.9, val_balanced_acc=0.5)
    names = ["a", "b", "\x1b[31m" + "x" * 99]
    found = rare_classes(rows, replace(FACTS, train_counts=[500, 500, 9], class_names=names))
    assert found is not None
    assert "\x1b" not in found
    assert len(found) < 200


@pytest.mark.parametrize(
    ("val", "is_said"),
    [
        ([2.0, 1.8, 1.6, 1.4, 1.2, 1.0], True),
        ([2.0, 1.5, 1.2, 1.05, 1.02, 1.01], False),
        ([2.0, 1.0], False),  # too short to tell
        ([2.0 - 0.05 * i for i in range(36)], True),
        ([1 + 0.9**i for i in range(60)], False),
    ],
)
def test_a_loss_that_still_falls_is_told(val: list[float], is_said: bool) -> None:
    assert (still_falling(course(val)) is not None) == is_said


@pytest.mark.parametrize(
    ("changes", "is_said"),
    [
        ({"tokens": 3136}, True),
        ({"tokens": 999}, False),
        ({"tokens": 3136, "img_size": 224}, False),
        ({"tokens": 3136, "is_folder": False}, False),
    ],
)
def test_many_tokens_are_said_if_nobody_chose_them(changes: dict[str, Any], is_said: bool) -> None:
    assert (many_tokens(replace(FACTS, **changes)) is not None) == is_said


def test_at_most_two_remarks_are_made_and_a_short_training_explains_its_guesses() -> None:
    facts = replace(FACTS, steps=20, warmup=40, tokens=3136, train_counts=[900, 50, 50])
    rows = course(RISING, val_acc=0.4, val_balanced_acc=1 / 3)
    found = hints(rows, facts)
    assert len(found) == MAX_HINTS == 2
    assert ["within its warmup" in found[0], "tokens" in found[1]] == [True, True]
    assert not any("one class" in text for text in found)
    # of a training that does not even guess well, its course says nothing
    assert not any("overfitting" in text or "rare classes" in text for text in found)


def test_fit_ends_with_its_remarks_before_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config=digits.yaml", PLAIN, *QUIET, *SMALL, "--trainer.max_epochs=1"]
    assert main([*words, "--trainer.accelerator=cpu", "--model.lr=1e-9"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    lines = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert lines[-2:] == ["hint", "next"]
    assert "in 20 updates a model learns little" in " ".join(out.split())


def test_a_trial_gets_no_remarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config=digits.yaml", "--config=debug.yaml", *QUIET, *SMALL]
    assert main([*words, "--trainer.accelerator=cpu"]) == 0
    assert "hint" not in capsys.readouterr().out
