"""Which trainings and tests of a series are run, what continues it, and how it ends.

The trainings are played here: ``test_child.py`` has real ones.
"""

import csv
import json
import signal
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from scipy import stats

from vitlit.__main__ import main
from vitlit.commands.repeats import train_series
from vitlit.commands.runs.list_runs import table_lines
from vitlit.commands.runs.run_records import read_runs
from vitlit.errors import InputError
from vitlit.training.runs import start_of

RIGHT = [58, 55, 60]  # images of each fold that its model has right
IMAGES = [60, 60, 61]
CV = Path("lightning_logs/cv")


class Player:
    """Plays the trainings and tests; statuses: how commands end that do not succeed."""

    checkpoint = "best.ckpt"

    def __init__(self) -> None:
        self.words: list[list[str]] = []
        self.statuses: dict[str, int] = {}
        self.finishes = True

    def __call__(self, words: list[str], way_on: str, *, quiet: bool = False) -> int:
        self.words.append(words)
        name = next(word for word in words if word.startswith(("--run=", "--ckpt_path=")))
        run = CV / name.rpartition("/")[2]
        if status := self.statuses.get(f"{words[0]} {run.name}"):
            return status
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        if words[0] == "fit" and self.finishes:
            (run / "finished").touch()
            (run / "checkpoints" / self.checkpoint).touch()
            (run / "config.yaml").write_text("data: {dataset: digits}\nmodel: {}\n")
            (run / "history.csv").write_text("epoch,step,seconds,val/loss,val/acc\n0,1,30,1,0.9\n")
        if words[0] == "test":
            write_report(run, weights=str(run / "checkpoints" / self.checkpoint))
        return 0

    @property
    def commands(self) -> list[str]:
        return [f"{words[0]} {self._name(words)}" for words in self.words]

    def _name(self, words: list[str]) -> str:
        return next(w for w in words if w.startswith(("--run=", "--ckpt"))).rpartition("/")[2]


def write_report(run: Path, folder: str = "test_report", **changes: Any) -> None:
    number = int(run.name[-1]) - 1
    weights = str(run / "checkpoints" / "best.ckpt")
    about = {"weights": weights, "split": "test", "flip": False, "fold": f"{number + 1}/3"}
    acc = RIGHT[number] / IMAGES[number]
    scores = {"images": IMAGES[number], "acc": acc, "acc_interval": [0, 1], "loss": 0.5 + number}
    (run / folder).mkdir(parents=True)
    metrics = {"of": about | changes, "scores": {**scores, "ece_bins": 15}}
    (run / folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Player:
    monkeypatch.chdir(tmp_path)
    found = Player()
    monkeypatch.setattr(train_series, "run_words", found)
    return found


def fit(*more: str) -> int:
    return main(["fit", "--folds", "3", "--run", "cv", *more])


def test_each_training_is_tested_and_the_summary_is_that_computed_by_hand(
    player: Player, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit() == 0
    assert player.commands == [f"{do} fold{i}" for i in (1, 2, 3) for do in ("fit", "test")]
    shares = [right / images for right, images in zip(RIGHT, IMAGES, strict=True)]
    with (CV / "summary.csv").open() as file:
        rows = {row["training"]: row for row in csv.DictReader(file)}
    assert [row["images"] for row in rows.values()][:3] == ["60", "60", "61"]
    assert float(rows["mean"]["acc"]) == pytest.approx(mean(shares))
    assert float(rows["std"]["acc"]) == pytest.approx(stdev(shares))
    low, high = stats.t.interval(0.95, 2, loc=mean(shares), scale=stats.sem(shares))
    ends = (float(rows["mean_low"]["acc"]), float(rows["mean_high"]["acc"]))
    assert ends == pytest.approx((low, high))
    assert float(rows["mean"]["loss"]) == 1.5
    assert "ece_bins" not in rows["mean"]
    pooled = json.loads((CV / "summary.json").read_text())["pooled"]
    wilson = stats.binomtest(173, 181).proportion_ci(method="wilson")
    assert (pooled["right"], pooled["images"]) == (173, 181)
    assert pooled["acc_interval"] == pytest.approx([wilson.low, wilson.high])
    out = " ".join(capsys.readouterr().out.split())
    assert f"mean test/acc {mean(shares):.4f} ± {stdev(shares):.4f}" in out
    assert "pooled accuracy 0.9558: 173 of 181 images, each tested once" in out


def test_a_stopped_series_goes_on_where_it_was(
    player: Player, capsys: pytest.CaptureFixture[str]
) -> None:
    player.statuses["fit fold2"] = 143
    assert fit() == 143
    assert "to continue: vitlit fit --run cv --folds 3" in capsys.readouterr().err
    [record] = read_runs(Path("lightning_logs"))
    assert (record.state, record.command) == ("stopped", "vitlit fit --run cv --folds 3")
    assert "1 of 3 folds are done" in record.note
    player.statuses.clear()
    player.words.clear()
    assert fit() == 0
    assert player.commands == ["fit fold2", "test fold2", "fit fold3", "test fold3"]
    player.words.clear()
    assert fit() == 0  # nothing is left to do but the summary
    assert player.commands == []


def test_trainings_without_validation_are_tested_by_their_last_checkpoint(player: Player) -> None:
    player.checkpoint = "last.ckpt"
    assert fit("--trainer.limit_val_batches=0") == 0
    assert player.commands[-2:] == ["fit fold3", "test fold3"]


def test_one_training_is_not_put_into_the_folder_of_several(
    player: Player, capsys: pytest.CaptureFixture[str]
) -> None:
    """They could not be continued afterwards."""
    player.statuses["fit fold2"] = 143
    assert fit() == 143
    with pytest.raises(InputError, match="cv is the folder of several trainings") as refusal:
        start_of(CV, None)
    assert refusal.value.way_on == "vitlit fit --run cv --folds 3"
    assert start_of(CV / "fold2", None) is None


def test_a_test_that_was_stopped_is_done_without_a_training(player: Player) -> None:
    player.statuses["test fold3"] = 130
    assert fit() == 130
    player.statuses.clear()
    player.words.clear()
    assert fit() == 0
    assert player.commands == ["test fold3"]


@pytest.mark.parametrize(
    "changes",
    [{"split": "val"}, {"flip": True}, {"weights": "last.ckpt"}, {"fold": "2/5"}],
)
def test_a_report_on_something_else_is_no_test_of_the_fold(
    changes: dict[str, Any], player: Player
) -> None:
    write_report(CV / "fold1", "test_report-2", **changes)
    assert fit() == 0
    assert "test fold1" in player.commands


@pytest.mark.parametrize(
    ("status", "ours", "reason"),
    [
        (2, 2, "fold 1 of 3 was refused, for the reason above"),
        (1, 1, "fold 1 of 3 failed"),
        (-signal.SIGKILL, 1, "fold 1 of 3 was ended by SIGKILL"),
        (-signal.SIGTERM, 143, "stopped by SIGTERM in fold 1 of 3"),
    ],
)
def test_a_training_that_fails_ends_the_series(
    status: int, ours: int, reason: str, player: Player, capsys: pytest.CaptureFixture[str]
) -> None:
    player.statuses["fit fold1"] = status
    assert fit() == ours
    err = capsys.readouterr().err
    assert reason in err
    # a line of its own, which can be copied
    way_on = "vitlit: to continue: vitlit fit --run cv --folds 3"
    assert (way_on in err.splitlines()) is (status != 2)
    assert player.commands == ["fit fold1"]


def test_a_training_that_did_not_reach_its_end_is_not_tested(
    player: Player, capsys: pytest.CaptureFixture[str]
) -> None:
    player.finishes = False
    assert fit() == 2
    assert "fold 1 of 3 ended before its training was finished" in capsys.readouterr().err


def test_another_number_under_the_same_name_is_refused(
    player: Player, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit() == 0
    assert main(["fit", "--repeats", "3", "--run", "cv"]) == 2
    assert "run cv has 3 folds, and not 3 repeats; give --folds 3" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="run cv began with other options"):
        assert fit("--model.lr=1") == 0


def test_a_single_training_of_the_name_is_refused(
    player: Player, capsys: pytest.CaptureFixture[str]
) -> None:
    (CV / "checkpoints").mkdir(parents=True)
    assert fit() == 2
    assert "run cv is one training; give another name" in capsys.readouterr().err


def test_the_list_of_runs_shows_a_series_in_one_line(player: Player) -> None:
    assert fit() == 0
    [record] = read_runs(Path("lightning_logs"))
    _, line, *rest = table_lines([record])
    assert line.split() == ["cv", "digits", "1", "0.9000", "1", "1:30", "finished"]
    assert " ".join("".join(rest).split()).startswith("3 of 3 folds are done")
    assert [run.name for run in read_runs(CV)] == ["fold1", "fold2", "fold3"]


@pytest.mark.parametrize("about", ["", "[]", '{"kind": "folds"}', '{"count": "x", "kind": 1}'])
def test_a_damaged_file_of_a_series_is_said(
    about: str, player: Player, capsys: pytest.CaptureFixture[str]
) -> None:
    CV.mkdir(parents=True)
    (CV / "series.json").write_text(about)
    assert fit() == 2
    assert "series.json is damaged" in capsys.readouterr().err or '"x"' in about
    assert read_runs(Path("lightning_logs"))[0].state == "broken"
