"""What is told of errors that settings or the machine caused, and of which nothing is told."""

import errno

import pytest
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from vitlit.cli.advice import advice, class_path_reason
from vitlit.errors import InputError


def from_module(module: str, text: str) -> Exception:
    """An error whose class says that it is of this module."""
    return type("Odd", (Exception,), {"__module__": module})(text)


LOADING = "DataLoader worker (pid 7) is killed by signal: Killed.\nmore"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InputError("give another"), "give another"),
        (
            RuntimeError("Error(s) in loading state_dict of x:\n\tmismatch for head\n more"),
            "the checkpoint does not fit the model; leave out --model flags: mismatch for head",
        ),
        (MemoryError(), "not enough memory; make"),
        (RuntimeError("CUDA out of memory. Tried"), "not enough memory; make"),
        (
            RuntimeError(LOADING),
            "a process that loads images was killed, perhaps because memory ran out "
            "(DataLoader worker (pid 7) is killed by signal: Killed.); give --data.num_workers 0",
        ),
        (
            from_module("torch._dynamo.exc", "no gcc\nmore"),
            "compiling failed: no gcc; give --model.compile false",
        ),
        (OSError(errno.ENOSPC, "No space left", "a.csv"), "cannot write to a.csv: No space left"),
        (OSError(errno.ENOSPC, "No space left"), "cannot write all files: No space left"),
        (OSError(errno.EACCES, "No permission", "a"), "cannot use a: No permission; check the"),
        (ValueError("You set `--ntasks=2` in your SLURM"), "SLURM has --ntasks without"),
        (
            MisconfigurationException("No supported gpu backend found!"),
            "PyTorch finds no GPU on this machine; leave out --trainer.accelerator or give cpu",
        ),
        (MisconfigurationException("No such strategy"), "No such strategy"),
        (
            ValueError("x\n - Import of given class_path a.B failed\n- why\n  - it\n - is not"),
            "Import of given class_path a.B failed why it",
        ),
    ],
)
def test_an_error_of_a_setting_or_the_machine_has_a_way_out(error: Exception, told: str) -> None:
    found = advice(error)
    assert found is not None
    assert found.startswith(told)


def raised_in(file: str, error: Exception) -> Exception:
    """The error as if raised by code of this file."""
    try:
        exec(compile("raise error", file, "exec"), {"error": error})
    except Exception as caught:
        return caught
    raise AssertionError


@pytest.mark.parametrize("kind", [ValueError, TypeError, ImportError])
def test_a_setting_that_a_library_refuses_is_told_in_its_words(kind: type[Exception]) -> None:
    for package in ("pytorch_lightning", "lightning_fabric", "jsonargparse"):
        assert advice(raised_in(f"/site/{package}/a.py", kind("odd setting"))) == "odd setting"
        assert advice(raised_in(f"C:\\site\\{package}\\a.py", kind("odd"))) == "odd"
        assert advice(raised_in(f"/site/{package}/a.py", KeyError("odd"))) is None
    assert advice(raised_in("/site/torch/a.py", kind("odd"))) is None
    assert advice(raised_in("/site/vitlit/a.py", OSError("odd"))) is None


def test_of_a_long_report_three_lines_are_told() -> None:
    text = "first\n - given class_path a.B:\n - two\n- three\n- four"
    assert class_path_reason(text) == "given class_path a.B: two three"
