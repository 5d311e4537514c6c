"""Intervals and paired comparisons, against scipy, closed forms and simulation."""

import pytest
import torch
from scipy import stats

from vitlit.evaluation.significance import (
    compare,
    holm,
    mcnemar,
    spread,
    student_quantile,
    wilson,
)


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (3, 7), (9412, 10000), (1, 1)])
def test_the_interval_is_scipys(right: int, count: int) -> None:
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_images_leave_everything_open() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (5, 5), (30, 12), (4000, 4210)])
def test_the_probability_is_that_of_the_exact_binomial_test(first: int, second: int) -> None:
    total = first + second
    expected = stats.binomtest(first, total).pvalue if total else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-8)


def test_a_difference_counts_the_images_that_one_alone_has_right() -> None:
    first = torch.tensor([True, True, True, False, False])
    second = torch.tensor([True, False, False, True, False])
    found = compare(first, second)
    assert (found.only_first, found.only_second, found.value) == (2, 1, pytest.approx(0.2))


def test_models_that_answer_alike_do_not_differ() -> None:
    right = torch.rand(50) < 0.5
    found = compare(right, right)
    assert found.p == 1.0
    assert found.interval[0] < 0 < found.interval[1]


def test_the_interval_of_a_difference_covers_it_in_95_of_100_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(1000):
        draw = torch.rand(200, generator=generator)  # 0.1 the first alone, 0.05 the second alone
        low, high = compare(
            (draw < 0.1) | (draw > 0.3), (draw > 0.1) & (draw < 0.15) | (draw > 0.3)
        ).interval
        covered += low <= 0.05 <= high
    assert 0.93 <= covered / 1000 <= 0.98


def test_holm_raises_the_probabilities_of_several_tests() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]


def test_no_images_make_no_difference() -> None:
    none = torch.zeros(0, dtype=torch.bool)
    found = compare(none, none)
    assert (found.value, found.p) == (0.0, 1.0)


def test_the_interval_of_a_difference_is_that_of_bonett_and_price() -> None:
    first, second = torch.zeros(98, dtype=torch.bool), torch.zeros(98, dtype=torch.bool)
    first[:9], second[9:13] = True, True
    # (9 + 1) / 100 - (4 + 1) / 100 ± 1.95996 sqrt((0.15 - 0.05²) / 100)
    assert compare(first, second).interval == pytest.approx((-0.0252738, 0.1252738), abs=1e-6)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 99, 998])
def test_the_quantile_of_student_is_scipys(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-12)


def test_the_spread_of_scores_is_scipys() -> None:
    values = [0.91, 0.95, 0.92, 0.99, 0.93]
    found = spread(values)
    standard_error = stats.sem(values)
    expected = stats.t.interval(0.95, 4, loc=sum(values) / 5, scale=standard_error)
    assert found.mean == pytest.approx(0.94)
    assert found.std == pytest.approx(standard_error * 5**0.5)
    assert found.interval == pytest.approx(expected)
