"""The mutation run: which faults it makes, and which tests it tries them with."""

from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray")  # in the extra "dev"

import mutants
import reach

SOURCE = '''"""A module."""


def halve(values: list[int] | None, *, floor: bool = True) -> list[float]:
    if values is None or len(values) == 0:
        return []
    return sorted((value // 2 if floor else value / 2 for value in values), reverse=False)
'''
KINDS = {"comparison", "arithmetic", "boolean", "number", "return", "argument"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "vitlit" / "model").mkdir(parents=True)
    (tmp_path / "vitlit" / "model" / "halve.py").write_text(SOURCE, encoding="utf-8")
    return tmp_path


def test_a_mutant_differs_in_one_line_of_code_and_not_in_an_annotation(tree: Path) -> None:
    found = mutants.sample(tree, 100, seed=0)
    assert {mutant.kind for mutant in found} == KINDS
    for mutant in found:
        pairs = zip(SOURCE.splitlines(), mutant.code.splitlines(), strict=True)
        changed = [number for number, (old, new) in enumerate(pairs, 1) if old != new]
        assert changed == [mutant.line]
        assert "list[int] | None" in mutant.code
        compile(mutant.code, mutant.module, "exec")


def test_a_seed_gives_the_same_mutants_again_and_another_seed_others(tree: Path) -> None:
    first, again, other = (mutants.sample(tree, 5, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_modules_get_mutants_in_proportion_to_their_lines() -> None:
    assert mutants.shares({"a": 100, "b": 50, "c": 33}, 20) == {"a": 11, "b": 5, "c": 4}


def test_a_long_list_of_tests_is_cut_at_the_time_limit_and_files_stay_together() -> None:
    seconds = {"a.py::1": 1.0, "b.py::1": 2.0, "a.py::2": 3.0, "b.py::2": 90.0, "a.py::3": 1.0}
    assert reach.batches([*seconds], seconds, limit=60) == [
        ["a.py::1", "b.py::1"],
        ["a.py::2", "a.py::3"],
    ]


def test_all_that_decides_a_training_is_among_the_modules() -> None:
    package = reach.ROOT / "vitlit"
    found = {pattern: list(package.glob(pattern)) for pattern in mutants.MODULES}
    assert all(found.values())
    paths = {path for files in found.values() for path in files}
    for folder in ("training", "tasks", "augment", "model"):
        assert paths >= set((package / folder).rglob("*.py"))


def test_tests_of_a_folder_in_a_package_are_those_of_the_package() -> None:
    module, own, other = "vitlit/training/optim/muon.py", "tests/training/test_muon.py::a", "b"
    found = reach.Reach.__new__(reach.Reach)  # without files of coverage
    found.seconds, found.lines = {own: 2.0, other: 1.0}, {module: {3: {own, other}}}
    mutant = mutants.Mutant(0, module, "number", 3, "")
    assert found.tests(mutant) == [own, other]
