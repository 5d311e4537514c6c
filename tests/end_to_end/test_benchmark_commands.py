"""The benchmarks measure what they say: the same images, the same code, on the device they name."""

import shlex
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import anomaly
import gpu_recipe
import int8
import loop_overhead
import measure
import predict
import pytest
import recipe
import run_all
import startup
import torch
from few_labels import trainer_for

from vitlit import ImageData
from vitlit.__main__ import main
from vitlit.data import resident


def test_the_bare_loop_has_pixels_too_where_a_gpu_holds_the_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resident, "fits", lambda images, device: True)  # as on a GPU
    data = ImageData(batch_size=8, patch_size=2)
    data.setup("fit")
    [sent] = islice(loop_overhead.endless(data, torch.device("cpu")), 1)
    data.trainer = trainer_for(1)
    assert isinstance(data.train_dataloader().dataset, resident.RowSplit)
    [held] = islice(loop_overhead.endless(data, torch.device("cpu")), 1)
    assert torch.equal(held.x, sent.x)


class StartedError(Exception):
    """A training would start, with these options."""


def start(*args: Any) -> None:
    raise StartedError(*args)


@pytest.mark.parametrize("script", [recipe, gpu_recipe], ids=lambda script: script.__name__)
def test_a_recipe_is_that_of_the_folder_it_was_named_in(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainings run in folders of their own, where the name would mean the shipped one."""
    monkeypatch.chdir(tmp_path)
    Path("digits.yaml").write_text("data: {dataset: digits}\n")
    words = ["--out=found.json"] if script is gpu_recipe else []
    monkeypatch.setattr(sys, "argv", [script.__name__, "digits.yaml", *words])
    monkeypatch.setattr(recipe, "train", start)
    with pytest.raises(StartedError) as caught:
        script.main()
    assert caught.value.args[0][0] == f"--config={tmp_path / 'digits.yaml'}"


@pytest.mark.parametrize("ending", [".py", ".md"])
def test_the_training_that_anomaly_asks_for_is_one_that_fit_takes(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(anomaly.__file__).with_suffix(ending).read_text()
    command = text.replace("\\\n", "").partition("vitlit fit")[2].partition("python benchmarks")[0]
    small = ["--data.dataset=digits", "--model.patch_size=2", "--trainer.max_epochs=1"]
    small += ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *shlex.split(command), *small]) == 0


def test_contestants_see_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    words = ["-c", "import os; assert os.environ['CUDA_VISIBLE_DEVICES'] == ''; print('none')"]
    predict.processor_seconds([sys.executable, *words])
    startup.seconds(words, tmp_path)
    begun: list[dict[str, str]] = []
    popen = subprocess.Popen

    def note(*args: Any, env: dict[str, str], **options: Any) -> Any:
        begun.append(env)
        return popen(*args, env=env, **options)

    monkeypatch.setattr(subprocess, "Popen", note)
    startup.first_word(words, tmp_path)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in begun] == [""]


def test_vitlit_predicts_where_the_scripts_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitlit.__main__.main", start)
    with pytest.raises(StartedError) as predicting:
        predict.by_vitlit(tmp_path, "last.ckpt", None)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: start(command))
    with pytest.raises(StartedError) as training:
        predict.make_checkpoint(tmp_path)
    for caught in (predicting, training):
        assert "--trainer.accelerator=cpu" in caught.value.args[0]


@pytest.mark.parametrize("script", [int8, startup], ids=lambda script: script.__name__)
def test_what_computes_on_the_cpu_is_written_under_it(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(measure, "check", lambda args, parser: None)
    monkeypatch.setattr(measure, "report", start)
    monkeypatch.setattr(startup, "prepare", lambda folder: None)
    monkeypatch.setattr(sys, "argv", [script.__name__])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which startup sets
    with pytest.raises(StartedError) as caught:
        script.main()
    assert caught.value.args[0].device == "cpu"


@pytest.mark.parametrize("quick", [False, True])
def test_three_splits_replace_none_of_the_figures_of_ten(
    quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(run_all, "run", lambda command, minutes: bool(commands.append(command)))
    monkeypatch.setattr(sys, "argv", ["run_all.py", *["--quick"] * quick])
    with pytest.raises(SystemExit) as caught:
        run_all.main()
    assert caught.value.code == 0
    *tables, digits = commands
    assert "digits.yaml" in digits
    assert digits[-1] == ("--quick" if quick else "--verify")
    assert {command[-1] for command in tables} == {"--quick" if quick else "--write"}
