"""Regression: targets and losses as scikit-learn and plain loops compute them, and bad cells."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from vitlit.errors import InputError
from vitlit.tasks.known import kind_of_table, kind_of_targets, make_task
from vitlit.tasks.regression import Regression
from vitlit.tasks.regression_scores import (
    RESAMPLES,
    bootstrap_means,
    error_intervals,
    error_scores,
)
from vitlit.tasks.task import Row

MEAN, STD = 1000.0, 7.0  # far from 0, where sums of squares would lose their digits


@pytest.fixture
def outputs() -> torch.Tensor:
    return torch.randn(500, 1, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> torch.Tensor:
    noise = torch.randn(500, 1, generator=torch.Generator().manual_seed(1))
    return MEAN + STD * noise


def task(**settings: object) -> Regression:
    made = make_task(
        {"task": "regression", "target_mean": MEAN, "target_std": STD, **settings},
    )
    assert isinstance(made, Regression)
    return made


def row(text: str | None) -> Row:
    return Row("labels.csv, line 2", "a.png", {"file": "a.png", "age": text})


def by_hand(name: str, error: float) -> float:
    match name:
        case "mse":
            return error**2
        case "l1":
            return abs(error)
    return error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5


@pytest.mark.parametrize("name", ["mse", "l1", "huber"])
def test_the_loss_is_the_mean_over_standardised_targets(
    name: str, outputs: torch.Tensor, targets: torch.Tensor
) -> None:
    pairs = zip(outputs[:, 0].tolist(), targets[:, 0].tolist(), strict=True)
    wanted = np.mean([by_hand(name, output - (y - MEAN) / STD) for output, y in pairs])
    assert task(loss=name).loss(outputs, targets).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["mse", "l1", "huber"])
def test_the_scores_of_a_split_are_those_of_scikit_learn(
    name: str, outputs: torch.Tensor, targets: torch.Tensor
) -> None:
    found = task(loss=name)
    scores = found.scores(1)
    for start in range(0, 500, 128):  # the last batch is filled up with rows that do not count
        batch = torch.arange(start, start + 128) % 500
        valid = torch.arange(start, start + 128) < 500
        scores.update(outputs[batch], found.without_fillers(targets[batch], valid))
    values = {key: value.item() for key, value in scores.compute().items()}
    answers, wanted = MEAN + STD * outputs.double().numpy(), targets.double().numpy()
    assert values.pop("count") == 500
    assert values == pytest.approx(
        {
            "loss": found.loss(outputs, targets).item(),
            "mae": mean_absolute_error(wanted, answers),
            "rmse": math.sqrt(mean_squared_error(wanted, answers)),
            "r2": r2_score(wanted, answers),
        },
        rel=1e-5,
    )
    assert error_scores(found.answers(outputs)[:, 0], targets[:, 0]) == pytest.approx(
        {key: values[key] for key in ("mae", "rmse", "r2")}, rel=1e-4
    )


def test_a_split_of_equal_targets_has_an_r2_of_0(outputs: torch.Tensor) -> None:
    scores = task().scores(1)
    scores.update(outputs, torch.full((500, 1), 1004.0))
    assert scores.compute()["r2"].item() == 0


def test_the_sums_of_an_epoch_give_its_loss_and_its_error_in_the_unit(
    outputs: torch.Tensor, targets: torch.Tensor
) -> None:
    found = task()
    sums = found.epoch_sums(torch.device("cpu"))
    for start in range(0, 500, 50):
        part = slice(start, start + 50)
        sums.add(found.loss(outputs[part], targets[part]), outputs[part], targets[part])
    values = sums.means()
    wanted = mean_absolute_error(targets.numpy(), MEAN + STD * outputs.numpy())
    assert values["mae"].item() == pytest.approx(wanted, rel=1e-5)
    assert values["loss_epoch"].item() == pytest.approx(found.loss(outputs, targets).item())
    again = found.epoch_sums(torch.device("cpu"))
    again.restore(sums.sums())
    assert again.means() == values


def test_intervals_are_the_quantiles_of_scores_of_resampled_images(
    outputs: torch.Tensor, targets: torch.Tensor
) -> None:
    answers = (targets + STD * 0.3 * outputs)[:50, 0].double()
    wanted = targets[:50, 0].double()
    rng = np.random.default_rng(0)
    drawn = [
        (mean_absolute_error(wanted[rows], answers[rows]), r2_score(wanted[rows], answers[rows]))
        for rows in (rng.integers(50, size=50) for _ in range(RESAMPLES))
    ]
    found = error_intervals(answers, wanted)
    for name, column in zip(("mae", "r2"), zip(*drawn, strict=True), strict=True):
        ends = np.quantile(column, [0.025, 0.975])
        width = ends[1] - ends[0]
        assert found[name] == pytest.approx(ends.tolist(), abs=0.15 * width)  # both are random


def test_resampled_means_vary_as_the_standard_error_says() -> None:
    values = torch.randn(400, 1, generator=torch.Generator().manual_seed(2))
    means = bootstrap_means(values)
    assert means.std().item() == pytest.approx(values.std().item() / 20, rel=0.05)
    assert torch.equal(means, bootstrap_means(values))


def test_the_training_images_decide_mean_and_standard_deviation(targets: torch.Tensor) -> None:
    found = make_task({"task": "regression"}).learned(targets)
    assert found == {
        "target_mean": pytest.approx(np.mean(targets.double().numpy())),
        "target_std": pytest.approx(np.std(targets.double().numpy())),
    }
    assert task().learned(targets) == {}  # a training that goes on keeps its own


def test_answers_come_back_in_the_unit_and_so_does_a_head_that_has_it_inside() -> None:
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    weight, bias = torch.randn(1, 8, generator=torch.Generator().manual_seed(4)), torch.ones(1)
    outputs = features @ weight.T + bias
    inside = task().self_contained({"head.weight": weight, "head.bias": bias})
    wanted = task().answers(outputs)
    assert wanted.tolist() == (outputs * STD + MEAN).tolist()
    assert torch.allclose(features @ inside["head.weight"].T + inside["head.bias"], wanted)
    again = task(pretrained="best").in_training(inside)
    assert torch.allclose(again["head.weight"], weight)
    assert torch.allclose(again["head.bias"], bias, atol=1e-4)


def test_strata_are_groups_of_equally_many_images_in_order() -> None:
    targets = torch.tensor([[5.0], [1.0], [1.0], [9.0]] * 10)
    groups = Regression.strata(targets)
    assert groups.bincount().tolist() == [4] * 10
    order = groups.argsort()
    assert targets[order, 0].tolist() == sorted(targets[:, 0].tolist())


def test_the_type_and_the_column_tell_the_task() -> None:
    assert kind_of_targets(Regression.targets([1.5], ["age"])) is Regression
    assert kind_of_table(["file", "target"], []) is Regression
    assert kind_of_table(["file", "class", "target"], []).name == "single_label"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a.png has no age; give it a number, or remove the line"),
        (None, "a.png has no age"),
        ("old", "labels.csv, line 2: age 'old' is not a number; correct it"),
        ("1,5", "age '1,5' is not a number; correct it, with a point before the decimals"),
        ("nan", "age nan is not a finite number"),
        ("-inf", "age -inf is not a finite number"),
        ("1e39", "age 1e39 is above 1e\\+30 in size; give it in a larger unit"),
    ],
)
def test_a_cell_that_is_no_number_is_refused_with_its_place(text: str | None, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Regression.read_labels(["age"], [row(text)])


def test_a_number_may_be_negative_and_have_an_exponent() -> None:
    assert Regression.read_labels(["age"], [row(" -1.5e2 ")]) == [-150.0]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([3.0, 3.0], "the column age has the value 3 for all 2 training images"),
        ([1e9, 1e9 + 64], "differ by too little for their size; subtract a constant"),
    ],
)
def test_targets_from_which_nothing_is_learned_are_refused(
    values: list[float], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        Regression.check_training(torch.tensor(values)[:, None], ["age"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"class_weights": "balanced"}, "class_weights balanced weights classes, and regression"),
        ({"label_smoothing": 0.1}, "label_smoothing 0.1 spreads the target over classes"),
        ({"loss": "rmse"}, "unknown loss 'rmse'"),
    ],
)
def test_settings_of_classes_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        task(**settings)


def test_a_loss_of_numbers_is_refused_for_classes() -> None:
    with pytest.raises(InputError, match="loss l1 is of regression, and the labels are classes"):
        make_task({"loss": "l1"})


@pytest.mark.parametrize("count", [2, 3])
def test_draws_of_one_image_alone_do_not_decide_the_interval_of_r2(count: int) -> None:
    wanted = torch.tensor([1.0, 2.0, 4.0])[:count]
    answers = wanted + torch.tensor([0.1, -0.2, 0.3])[:count]
    rows = [torch.tensor(rows) for rows in product(range(count), repeat=count)]
    drawn = [r2_score(wanted[one], answers[one]) for one in rows if len(set(one.tolist())) > 1]
    low, high = error_intervals(answers, wanted)["r2"]
    assert min(drawn) - 1e-6 <= low <= high <= max(drawn) + 1e-6


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (1.0, None, "target_mean 1.0 and target_std None belong together"),
        (None, 2.0, "target_mean None and target_std 2.0 belong together"),
        (float("nan"), 1.0, "target_mean nan is not finite"),
        (1.0, 0.0, "target_std 0.0 is not positive"),
        (1.0, -2.0, "target_std -2.0 is not positive"),
        (1.0, float("nan"), "target_std nan is not positive"),
    ],
)
def test_statistics_that_no_training_finds_are_refused(
    mean: float | None, std: float | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        task(target_mean=mean, target_std=std)


def test_a_mean_of_zero_is_one() -> None:
    found = task(target_mean=0.0, target_std=2.0)
    assert (found.mean, found.std) == (0.0, 2.0)
