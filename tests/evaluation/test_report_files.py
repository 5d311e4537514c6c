"""The parts of a report of a test: what its figures and tables are told."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vitlit.evaluation import report_files
from vitlit.evaluation.calibration import Calibration
from vitlit.evaluation.inference import Rows


@pytest.mark.draws
@pytest.mark.parametrize(
    ("shown", "title"),
    [(9, "all 3 mistakes; of a test"), (2, "the 2 most confident of 3 mistakes; of a test")],
)
def test_the_sheet_of_mistakes_says_which_they_are_and_how_sure_the_model_was(
    shown: int, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    def sheet(pictures: Any, words: list[str], *, title: str) -> None:
        told.update(pictures=[int(one) for one in pictures], words=words, title=title)

    monkeypatch.setattr(report_files.figures, "picture_sheet", sheet)
    monkeypatch.setattr(report_files, "SHOWN_MISTAKES", shown)
    shares = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
    rows = Rows(shares.log(), torch.tensor([0, 0, 0, 1]), torch.tensor([10, 11, 12, 13]))
    split = SimpleNamespace(
        pictures=lambda sample: sample, files=lambda sample: [f"{n}.png" for n in sample]
    )
    data: Any = SimpleNamespace(split="test", splits={"test": split})
    found = report_files.draw_report(rows, ["cat", "dog"], "none", data, title="of a test")
    assert found.keys() == {"confusion", "reliability", "risk_coverage", "mistakes"}
    words = [
        "true cat, predicted dog (0.80)\n11.png",
        "true dog, predicted cat (0.70)\n13.png",
        "true cat, predicted dog (0.60)\n12.png",
    ]
    assert told == {
        "pictures": [11, 13, 12][:shown],
        "words": words[:shown],
        "title": title,
    }


def test_answers_that_are_all_wrong_determine_a_temperature() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    assert isinstance(report_files.fit_calibration(logits, torch.tensor([0, 0])), Calibration)
    assert "all 2 validation" in str(report_files.fit_calibration(logits, torch.tensor([1, 1])))


@pytest.mark.parametrize(("temperature", "curves"), [(1.5, 2), (19.99999994, 1), (0.05, 1)])
def test_a_temperature_at_the_end_of_its_range_is_not_drawn(
    temperature: float, curves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        report_files.figures, "reliability_diagram", lambda *a, **_: drawn.append(a)
    )
    monkeypatch.setattr(report_files, "shown_mistakes", lambda *_: ([], 0))
    rows = Rows(torch.eye(2), torch.tensor([0, 1]), torch.tensor([0, 1]))
    fitted = Calibration(temperature, loss_before=0.5, loss_after=0.4, images=9)
    data: Any = None
    report_files.draw_report(rows, ["cat", "dog"], fitted, data, title="of a test")
    [(_, after, told)] = drawn
    assert (after is None, told is None) == (curves == 1, curves == 1)
