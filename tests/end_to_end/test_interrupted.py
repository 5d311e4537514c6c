"""Signals to commands that train nothing: what is done is kept and said, the rest is not left."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import environment
from trainings import QUIET, RUN

from vitlit.__main__ import main
from vitlit.errors import Stopped
from vitlit.fault_tolerance.ending import ending_at_signals, handling_signals

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.name == "nt", reason="Windows has other signals"),
]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
WHERE = {  # of each command, a function that is called when it has begun to write
    "test --out=report": "vitlit.evaluation.report_files.write_mistakes",
    "explain --count=2": "vitlit.explain.explanation.write_page",
    "export": "vitlit.deploy.export._output_difference",
    "probe --k=1": "vitlit.features.probe._write_data_set",
    "compare": "vitlit.evaluation.compare.comparison_lines",
}
SIGNALS = [  # one of a kind is enough for the fast tests
    one if one == signal.SIGTERM else pytest.param(one, marks=pytest.mark.slow) for one in STATUS
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and ten images."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "photos").mkdir()
    for number in range(10):
        Image.new("L", (8, 8), 20 * number).save(folder / "photos" / f"{number}.png")
    (folder / "photos" / "1.png").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*RUN, "--trainer.max_epochs=1"]) == 0
    return folder


def words_of(run: Path, command: str) -> list[str]:
    [checkpoint] = run.glob("lightning_logs/*/checkpoints/last.ckpt")
    files = [f"--ckpt_path={checkpoint}"]
    if command == "compare":
        files = [str(checkpoint), str(checkpoint.with_name("best.ckpt"))]
    return [*command.split(), *files, "--trainer.accelerator=cpu", *QUIET]


def sending(signum: signal.Signals, function: Any, *, call: int = 1) -> Callable[..., Any]:
    """The function, which at the given call gets the signal in its place."""
    calls = 0

    def act(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signum)
        return function(*args, **options)

    return act


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(one, marks=[pytest.mark.slow] if one.startswith(("probe", "explain")) else [])
        for one in WHERE
    ],
)
def test_a_command_that_is_stopped_leaves_nothing_unfinished(
    command: str,
    signum: signal.Signals,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(WHERE[command], sending(signum, lambda *args, **options: []))
    before = signal.getsignal(signum)
    assert main(words_of(run, command)) == STATUS[signum]
    words = f"vitlit: stopped by {signum.name} before it was done; no unfinished files are left\n"
    assert capsys.readouterr().err.endswith(words)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signum) == before


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("output", ["probabilities", "features"])
def test_predictions_of_the_images_so_far_are_kept_and_counted(
    output: str,
    signum: signal.Signals,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vitlit.commands import machine

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "answer", sending(signum, machine.answer, call=3))
    more = [f"--output={output}", "--data.batch_size=3", f"--data.images={run / 'photos'}"]
    assert main([*words_of(run, "predict"), *more]) == STATUS[signum]
    [file] = tmp_path.iterdir()
    message = capsys.readouterr().err.splitlines()[-1]
    expected = {str(run / "photos" / f"{number}.png") for number in range(6)}
    if output == "probabilities":
        assert file.name == "predictions.csv"
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        assert {row["file"] for row in rows} == expected
        assert [bool(row["error"]) for row in rows] == [False, True, *[False] * 4]
        assert f"stopped by {signum.name} after 6 of 10 images; wrote the predictions" in message
    else:
        with np.load(file) as arrays:
            files = set(arrays["files"])
        assert files == expected - {str(run / "photos" / "1.png")}
        assert f"stopped by {signum.name} after 5 of 10 images; wrote the features" in message


def test_a_signal_before_the_first_image_writes_no_predictions(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    place = "vitlit.data.splits.find_images"
    monkeypatch.setattr(place, sending(signal.SIGTERM, lambda *args: []))
    images = f"--data.images={run / 'photos'}"
    assert main([*words_of(run, "predict"), images]) == 143
    assert "before it was done; no unfinished files are left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_each_of_several_processes_keeps_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from vitlit.prediction.lightning_callback import WritePredictions
    from vitlit.prediction.writer import PredictionWriter

    monkeypatch.chdir(tmp_path)
    writer = PredictionWriter(None, ["a", "b"])
    writer._found, writer._bad = [(3, [0.9, 0.1], [1, 0])], [(1, "empty")]
    data = SimpleNamespace(files=[f"{number}.png" for number in range(5)])
    trainer: Any = SimpleNamespace(world_size=2, global_rank=1, datamodule=data)
    stop = Stopped(signal.SIGTERM, "")
    WritePredictions(writer).on_exception(trainer, None, stop)  # type: ignore[arg-type]
    name = "predictions-process-1.csv"
    with Path(name).open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["1.png", "3.png"]
    assert stop.where == f"after 2 of 5 images; wrote the predictions of these to {name}"


def test_before_the_first_row_nothing_is_written_or_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitlit.prediction.writer import PredictionWriter

    monkeypatch.chdir(tmp_path)
    stop = Stopped(signal.SIGTERM, "while reading")
    PredictionWriter(None, ["a", "b"]).stop(stop, ["0.png"])
    assert stop.where == "while reading"
    assert list(tmp_path.iterdir()) == []


def test_the_same_wish_twice_is_one_and_a_later_one_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, ended = [100.0], []
    monkeypatch.setattr("vitlit.fault_tolerance.signals.time.monotonic", lambda: now[0])
    monkeypatch.setattr(os, "_exit", ended.append)
    with ending_at_signals():
        with pytest.raises(Stopped) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.status == 143
        now[0] = 100.5
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun passes on what SLURM sent to all
        assert not ended
        now[0] = 102.0
        os.kill(os.getpid(), signal.SIGINT)
    assert ended == [130]


def test_a_command_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling_signals(lambda signum, frame: pytest.fail("was told")):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("signum", SIGNALS)
def test_a_process_and_its_loaders_end_together_without_a_traceback(
    signum: signal.Signals, run: Path, tmp_path: Path
) -> None:
    """As Ctrl-C does: to the whole group, with processes that load images."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(4000):
        (many / f"{number}.png").write_bytes((run / "photos" / "2.png").read_bytes())
    command = [sys.executable, "-m", "vitlit", *words_of(run, "predict")]
    command += [f"--data.images={many}", "--data.num_workers=2", "--data.batch_size=1"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    words = b""
    while b"precision " not in words:
        words += process.stderr.read1()  # type: ignore[attr-defined]
        assert process.poll() is None, words
    time.sleep(1.5)  # for the loaders to start
    os.killpg(process.pid, signum)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == STATUS[signum]
    assert b"Traceback" not in words + rest
    assert f"stopped by {signum.name} after ".encode() in rest
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert f"after {len(rows) - 1} of 4000 images".encode() in rest
