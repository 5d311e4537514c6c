"""Only a run of the tests marked ``gpu`` sees a GPU; all others train where they are meant to."""

import os

import pytest
from gpu_tests import selects_gpu


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("", False),
        ("gpu", True),
        ("not slow and gpu", True),
        ("(gpu or slow) and not network", True),
        ("not gpu", False),
        ("not slow and not gpu and not network", False),
        ("not (slow or gpu)", False),
        ("slow", False),
    ],
)
def test_a_run_of_pytest_sees_a_gpu_if_it_selects_its_tests(expression: str, answer: bool) -> None:
    assert selects_gpu(expression) is answer


def test_other_runs_see_none(request: pytest.FixtureRequest) -> None:
    if not selects_gpu(request.config.getoption("markexpr")):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
