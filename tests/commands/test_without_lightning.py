"""Commands without Lightning: what they import, and that Lightning would give the same."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitlit.__main__ import main
from vitlit.commands import without_lightning
from vitlit.commands.machine import is_quick

CHECKPOINT = Path(__file__).parents[1] / "stored" / "old_checkpoint" / "last.ckpt"
HEAVY = ("pytorch_lightning", "torchmetrics", "torchvision", "matplotlib", "tensorboard")
HEAVY += ("torch._dynamo",)  # the compiler
# runs a command, then prints which heavy modules it imported
PROBE = (
    "import sys\nfrom vitlit.__main__ import main\nstatus = main(sys.argv[1:])\n"
    f"print('imported', [name for name in {HEAVY} if name in sys.modules])\nsys.exit(status)"
)
LOAD = (
    "import sys, vitlit\nmodel, preprocess, names = vitlit.load(sys.argv[1])\n"
    "model(preprocess(preprocess.read(sys.argv[2])[None]))\n"
    f"print('imported', [name for name in {HEAVY} if name in sys.modules])"
)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three files in the current folder; one of them is no image."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(name)
    Path("c.png").write_text("no image")
    return ["a.png", "b.jpg", "c.png"]


def words(command: str, *more: str) -> list[str]:
    return [command, "--ckpt_path", str(CHECKPOINT), *more]


def run_alone(code: str, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
    )


def test_predict_speaks_before_torch_is_there_and_imports_no_lightning(
    pictures: list[str],
) -> None:
    found = run_alone(PROBE, *words("predict", "--data.images", *pictures))
    assert found.stdout.splitlines()[-1] == "imported []"
    assert found.stderr.startswith("vitlit predict: loading PyTorch …\n")


@pytest.mark.slow
def test_loading_a_model_imports_no_lightning(pictures: list[str]) -> None:
    assert run_alone(LOAD, str(CHECKPOINT), pictures[0]).stdout == "imported []\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (words("export"), "[]"),
        (words("validate"), "[]"),
        (words("test", "--out=here"), "['matplotlib']"),
        (words("explain", "--data.images", "a.png"), "['matplotlib']"),
        (words("probe", "--data.images", "a.png", "b.jpg"), "['matplotlib']"),
        (words("anomaly", "--normal=a.png", "--data.images", "b.jpg"), "['matplotlib']"),
    ],
)
def test_other_commands_import_no_lightning(
    pictures: list[str], args: list[str], expected: str
) -> None:
    assert run_alone(PROBE, *args).stdout.splitlines()[-1] == f"imported {expected}"


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("output", ["probabilities", "features", "patches"])
def test_predictions_are_those_that_lightning_makes(
    pictures: list[str],
    output: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = words("predict", "--trainer.accelerator=cpu", f"--output={output}")
    args += ["--data.images", *pictures, "--trainer.enable_progress_bar=false"]
    assert main([*args, "--out=here"]) == 0
    quick = capsys.readouterr()
    monkeypatch.setattr("vitlit.commands.without_lightning.is_quick", lambda args: False)
    assert main([*args, "--out=there"]) == 0
    slow = capsys.readouterr()
    assert quick.out == slow.out.replace("there", "here")
    if output == "features":
        with np.load("here") as one, np.load("there") as other:
            assert np.array_equal(one["features"], other["features"])
            assert np.array_equal(one["files"], other["files"])
    else:
        if output == "patches":
            assert Path("here.csv").read_bytes() == Path("there.csv").read_bytes()
        assert Path("here").read_bytes() == Path("there").read_bytes()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], True),
        (["--trainer.accelerator=cpu", "--trainer.devices", "1"], True),
        (["--trainer.precision=bf16-mixed", "--trainer.logger=false"], True),
        (["--trainer.devices=2"], False),
        (["--trainer.accelerator=tpu"], False),
        (["--trainer.precision=16-mixed"], False),
        (["--trainer.precison=32"], False),
        (["--trainer.limit_predict_batches=1"], False),
        (["--trainer", "{max_epochs: 1}"], False),
        (["--config=digits.yaml"], False),
        (["--config=vit_b16.yaml"], True),
        (["--config=nowhere.yaml"], False),
        (["--print_config"], False),
        (["--help"], False),
        (["--allow_classes_of=mine"], False),
    ],
)
def test_what_only_lightning_has_is_left_to_it(more: list[str], expected: bool) -> None:
    assert is_quick([*words("predict"), *more]) is expected


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS"])
def test_several_processes_are_left_to_lightning(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "2")
    assert not is_quick(words("predict"))


@pytest.mark.parametrize("args", [["fit"], ["test", "--verbose=true"], ["test", "--verbose"]])
def test_training_and_tables_of_lightning_are_left_to_it(args: list[str]) -> None:
    assert not is_quick(words(*args))
    assert is_quick(words("test"))
    assert is_quick(words("validate"))


def scored(run: Path, args: list[str], capsys: pytest.CaptureFixture[str]) -> list[Any]:
    """What a command says, its curves as (step, value), its pictures, and its report's files."""
    options = [f"--ckpt_path={run}", "--trainer.accelerator=cpu"]
    assert main([*args, *options, "--trainer.enable_progress_bar=false"]) == 0
    curves: dict[str, Any] = {}
    for file in run.glob("events*"):
        events = EventAccumulator(str(file)).Reload()
        for name in events.Tags()["scalars"]:
            curves[name] = [(event.step, event.value) for event in events.Scalars(name)]
        curves["images"] = sorted(events.Tags()["images"])
        file.unlink()
    # of the zip file of arrays each entry has its time
    files = [file for file in run.glob("test_report/*") if file.suffix != ".npz"]
    return [capsys.readouterr().out, curves, {file.name: file.read_bytes() for file in files}]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("args", [["test"], ["test", "--flip=true"], ["validate"]])
def test_scores_and_reports_are_those_that_lightning_makes(
    args: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "lightning_logs" / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(CHECKPOINT, run / "checkpoints" / "best.ckpt")
    quick = scored(run, args, capsys)
    monkeypatch.setattr("vitlit.commands.without_lightning.is_quick", lambda args: False)
    assert quick == scored(run, args, capsys)
    assert ("test_report" in quick[0]) == bool(quick[1]) == bool(quick[2]) == (args[0] == "test")


@pytest.mark.parametrize("command", ["predict", "export", "test", "validate"])
def test_without_lightning_a_command_has_the_options_that_it_has_with_it(command: str) -> None:
    from pytorch_lightning.cli import LightningCLI

    from vitlit.commands.trainer import Trainer

    skip = LightningCLI.subcommands().get(command, without_lightning.OWN_PARAMETERS)
    whole = dict(without_lightning.make_parser(command, Trainer, skip)[1].get_defaults().items())
    quick = dict(without_lightning.make_parser(command)[1].get_defaults().items())
    others = {key for key in whole if not key.startswith("trainer.")}
    assert others - set(quick) - {"return_predictions", "verbose"} == set()
    same = [key for key in quick if key in others and key != "weights_only"]
    assert [key for key in same if quick[key] != whole[key]] == []


def test_bad_settings_of_a_training_are_refused_here_too(
    pictures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    args = words("predict", "--data.images", *pictures)
    for option, reason in (
        ("--ema.decay=2", "ema.decay 2.0 is not in [0, 1)"),
        ("--early_stopping.patience=-1", "early_stopping.patience -1 is not valid"),
        ("--data.imags=a.png", "unknown option data.imags; did you mean data.images?"),
        ("--out=a.png", "a.png exists"),
    ):
        assert main([*args, option]) == 2
        assert reason in capsys.readouterr().err
    assert torch.is_grad_enabled()
