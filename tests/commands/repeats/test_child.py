"""Real series: signals reach the training, and one that was killed goes on where it was."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from processes import VITLIT, environment
from trainings import RUN, same

from vitlit.__main__ import main

CV = Path("lightning_logs/cv")
SERIES = [*RUN, "--trainer.max_epochs=2", "--folds=3", "--run=cv"]


def start(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [VITLIT, *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(path: Path, seconds: float = 900.0) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_a_series_killed_in_its_third_fold_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = start(*SERIES)
    wait_for(CV / "fold3" / "checkpoints" / "last.ckpt")
    first.kill()
    first.communicate()  # until the training, whose parent is gone, has saved and ended too
    done = {path: path.stat().st_mtime_ns for path in CV.glob("fold[12]/checkpoints/last.ckpt")}
    assert len(done) == 2
    assert not (CV / "summary.csv").exists()
    second = subprocess.run(
        [VITLIT, *SERIES], env=environment(), capture_output=True, text=True, check=False
    )
    assert second.returncode == 0, second.stdout + second.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    # as one process trains that fold alone
    alone = [*RUN, "--trainer.max_epochs=2", "--data.fold=3/3", "--run=alone"]
    assert main(alone) == 0
    states = [
        torch.load(f"lightning_logs/{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in ("cv/fold3", "alone")
    ]
    assert same(*states)
    reports = [json.loads(path.read_text()) for path in sorted(CV.glob("*/test_report/*.json"))]
    assert [report["of"]["fold"] for report in reports] == ["1/3", "2/3", "3/3"]
    assert sum(report["scores"]["images"] for report in reports) == 1797
    with (CV / "summary.csv").open() as file:
        rows = {row["training"]: row for row in csv.DictReader(file)}
    average = sum(report["scores"]["acc"] for report in reports) / 3
    assert float(rows["mean"]["acc"]) == pytest.approx(average)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_a_signal_to_the_series_saves_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    process = start(*SERIES, "--trainer.max_epochs=1000")
    wait_for(CV / "fold1" / "checkpoints" / "last.ckpt")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "; saved " in output
    assert "stopped by SIGTERM in fold 1 of 3" in output
    assert output.count("to continue: ") == 1
    assert output.rstrip().endswith("--run=cv --trainer.max_epochs=1000 --folds 3")
