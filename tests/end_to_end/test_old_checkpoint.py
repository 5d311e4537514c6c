"""A checkpoint that an earlier version wrote is used by this one with the same results."""

import json
from pathlib import Path

import old_checkpoint
import pytest

EXPECTED = json.loads((old_checkpoint.STORED / "expected.json").read_text(encoding="utf-8"))
# processors differ in the last digits of float32; over the steps of a training they add up
# of exports: sums of equal weights, whose order is the processor's
TOLERANCE = {"test": 1e-5, "explain": 1e-5, "export": 1e-13, "resume": 5e-4}


def test_every_figure_was_recorded() -> None:
    assert EXPECTED.keys() == old_checkpoint.FIGURES.keys()


@pytest.mark.parametrize("command", TOLERANCE)
def test_an_older_checkpoint_gives_the_figures_it_gave(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, wanted = old_checkpoint.FIGURES[command](), EXPECTED[command]
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=0, abs=TOLERANCE[command]), name


def test_an_older_checkpoint_predicts_what_it_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = old_checkpoint.FIGURES["predict"]()
    assert found.keys() == EXPECTED["predict"].keys()
    for name, wanted in EXPECTED["predict"].items():
        for ours, theirs in zip(found[name].split(";"), wanted.split(";"), strict=True):
            label, probability = ours.split(":")
            assert label == theirs.split(":")[0]
            assert float(probability) == pytest.approx(float(theirs.split(":")[1]), abs=1.5e-4)
