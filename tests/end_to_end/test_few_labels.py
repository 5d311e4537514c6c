"""The benchmarks on few labels: scores that are kept, and what makes two trainings differ."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import kept_scores
import label_counts
import muon
import pytest
import small_data
from few_labels import Training, Workplace
from kept_scores import Score

TRAINING = Training("digits", seed=0, steps=1, data={"shots": 10})


def test_a_training_whose_score_is_kept_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, made = Workplace(tmp_path / "scores.jsonl", tmp_path), []

    def make(self: Workplace, training: Training) -> Score:
        made.append(training)
        return Score(0.5, 100, 1.0)

    monkeypatch.setattr(Workplace, "_fit", make)
    other = replace(TRAINING, model={"lr": 1e-3})
    assert [place.score(one) for one in (TRAINING, other, TRAINING)] == [Score(0.5, 100, 1.0)] * 3
    assert made == [TRAINING, other]


def test_a_probe_whose_score_would_be_of_the_test_images_is_not_called_one_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workplace, "checkpoint", lambda self, training: tmp_path / "made.ckpt")
    place = Workplace(tmp_path / "scores.jsonl", tmp_path, split="val")
    with pytest.raises(SystemExit, match="scores the test images alone; leave out --split val"):
        place.score(replace(TRAINING, goal="probe", start=TRAINING))


@pytest.mark.parametrize(
    ("script", "word"),
    [(small_data, "probe"), (label_counts, "--data-dir=.")],
    ids=["small", "counts"],
)
def test_a_script_refuses_that_before_it_trains(
    script: ModuleType,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, word, "--split=val"])
    monkeypatch.setattr(
        kept_scores, "parsed", lambda parser: parser.parse_args()
    )  # sets no threads
    monkeypatch.setattr(Workplace, "score", lambda self, training: pytest.fail("it trains"))
    with pytest.raises(SystemExit):
        script.main()
    assert "leave out --split val" in capsys.readouterr().err


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "scores.jsonl"
    kept_scores.append(file, {"digest": "a"}, Score(0.5, 100, 1.0))
    kept_scores.append(file, {"digest": "b"}, Score(0.6, 100, 1.0))
    file.write_bytes(file.read_bytes()[:-20])
    assert list(kept_scores.read(file)) == ["a"]


def test_a_student_is_another_training_if_its_teacher_is() -> None:
    first, second = (replace(TRAINING, teacher=replace(TRAINING, steps=n)) for n in (2, 3))
    assert first.digest("test") != second.digest("test")
    assert first.digest("test") != first.digest("val")
    assert first.digest("test") == replace(first).digest("test")


def test_steps_to_a_loss_end_with_the_first_window_that_has_it() -> None:
    found = muon.Found(None, [2.0, 1.0, 0.5, 0.7])
    assert [muon.steps_of(found, goal, 250) for goal in (2.0, 0.9, 0.4)] == [100, 250, None]


def test_what_another_script_kept_is_not_a_score(tmp_path: Path) -> None:
    file = tmp_path / "scores.jsonl"
    file.write_text(json.dumps({"digest": "a", "step": None, "windows": [1.0]}) + "\n")
    assert kept_scores.read(file) == {}
    assert muon.read(file) == {"a": muon.Found(None, [1.0])}
