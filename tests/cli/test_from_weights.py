"""Settings beside published weights: who decides, and what is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from photo_folder import PhotoFolder
from PIL import Image
from timm_weights import folder_of, written
from torch import Tensor

from vitlit import load
from vitlit.__main__ import main
from vitlit.cli.from_weights import origins
from vitlit.images.framing import Framing

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
QUIET += ["--trainer.accelerator=cpu", "--trainer.devices=1"]

ONE = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--data.dataset=digits"]
ONE += ["--trainer.limit_val_batches=1", "--data.batch_size=4"]


def test_the_last_place_that_sets_a_value_is_its_origin(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {depth: 3, lr: 0.1}\n")
    words = ["fit", f"--config={tmp_path / 'a.yaml'}", "--config", "debug.yaml", "--model.lr", "1"]
    found = origins([*words, "--data={img_size: 8}"])
    assert found["model.depth"].endswith("debug.yaml")
    assert found["trainer.max_epochs"].endswith("debug.yaml")
    assert (found["model.lr"], found["data.img_size"]) == ("--model.lr", "--data.img_size")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*words.split(), *QUIET]) == 2
    return capsys.readouterr().err


def test_heads_that_contradict_the_file_are_an_error(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of(here, {"num_attention_heads": 4})
    words = f"fit --model.pretrained {here} --model.num_heads 2 {' '.join(ONE)}"
    assert "model.num_heads 2 contradicts" in (message := fails(words, capsys))
    assert "which has 4; leave out --model.num_heads" in message


def test_a_config_that_contradicts_the_weights_is_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(here / "w.pth")
    (here / "mine.yaml").write_text("model: {depth: 3}\n")
    words = f"fit --config mine.yaml --model.pretrained w.pth {' '.join(ONE)}"
    assert "model.depth 3 of mine.yaml contradicts w.pth, which has 2" in fails(words, capsys)


def test_debug_runs_on_weights_of_any_depth(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(here / "w.pth", depth=3, img_size=8)
    configs = ["--config", "finetune.yaml", "--config", "debug.yaml"]
    with caplog.at_level("INFO"):
        assert main(["fit", *configs, "--model.pretrained=w.pth", *ONE, *QUIET]) == 0
    [file] = here.glob("lightning_logs/*/checkpoints/last.ckpt")
    settings = torch.load(file, weights_only=True)["hyper_parameters"]
    assert settings["depth"] == 3
    assert "the depth of debug.yaml is left out; the weights have 3 blocks" in caplog.text
    assert "assumed, which are those of digits" in caplog.text


def test_a_given_size_and_heads_reach_prediction(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = written(here / "w.pth", img_size=(16, 24))
    Image.new("RGB", (24, 16), (200, 90, 30)).save("a.png")
    words = ["--data.img_size=[16,24]", "--model.num_heads=4", "--data.images", "a.png"]
    words += ["--data.mean=[0,0,0]", "--data.std=[1,1,1]"]
    with caplog.at_level("INFO"):
        assert main(["predict", "--model.pretrained=w.pth", *words, *QUIET]) == 0
    pixel = torch.tensor([200, 90, 30]).view(1, 3, 1, 1) / 255
    with torch.no_grad():
        probability: Tensor = reference(pixel.expand(-1, -1, 16, 24)).softmax(1).max()
    [_, row] = Path("predictions.csv").read_text().splitlines()
    assert float(row.split(",")[2]) == pytest.approx(float(probability), abs=1e-4)
    assert "num_heads" not in caplog.text


def test_a_model_that_averages_after_its_norm_is_read_as_its_user_says(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = written(here / "a.pth", global_pool="avg", fc_norm=False)
    words = ["export", "--model.pretrained=a.pth", "--model.num_heads=4", "--naming=vitlit"]
    with caplog.at_level("INFO"):
        assert main([*words, "--out=guessed", *QUIET]) == 0
    assert "weights: global_pool token assumed" in caplog.text
    caplog.clear()
    told = ["--model.global_pool=avg", "--model.class_token=true", "--model.fc_norm=false"]
    with caplog.at_level("INFO"):
        assert main([*words, *told, "--out=told", *QUIET]) == 0
    assert "assumed, since the weights have a class token" not in caplog.text
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = reference(images)
        torch.testing.assert_close(load("told").model(images), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(load("guessed").model(images), expected, rtol=1e-2, atol=1e-2)


@pytest.fixture
def squashing(here: Path) -> Path:
    """The folder of a model of timm whose images were stretched and cut."""
    told = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {
        "input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3,
        "crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bilinear",
    }, "model_args": {"num_heads": 4}}  # fmt: skip
    (here / "weights").mkdir()
    written(here / "weights" / "pytorch_model.bin", img_size=16)
    (here / "weights" / "config.json").write_text(json.dumps(told))
    return here / "weights"


SQUASHED = {"fit": "squash", "crop_fraction": 0.8, "interpolation": "bilinear"}


def test_images_are_fitted_as_those_of_the_weights_from_fit_to_export(
    squashing: Path, photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["--trainer.max_epochs=1", "--data.batch_size=4", f"--data.data_dir={photo_folder()}"]
    words += ["--model.pretrained=weights", "--model.freeze_blocks=0"]
    with caplog.at_level("INFO"):
        assert main(["fit", "--config=finetune.yaml", "--run=tuned", *words, *QUIET]) == 0
    assert "weights: images are stretched to 20x20, bilinear" in caplog.text
    [file] = Path().glob("lightning_logs/tuned/checkpoints/last.ckpt")
    saved = torch.load(file, weights_only=True)["datamodule_hyper_parameters"]
    assert {name: saved[name] for name in SQUASHED} == SQUASHED
    assert main(["export", f"--ckpt_path={file}", "--out=out", *QUIET]) == 0
    for source in (file, "out", "weights"):
        framing = load(str(source)).preprocess.framing
        assert framing == Framing("squash", 0.8, "bilinear"), source


def test_flags_and_sets_of_arrays_go_before_the_fit_of_the_weights(
    squashing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def settings(*words: str) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main(["fit", "--model.pretrained=weights", *words, "--print_config"])
        found = yaml.safe_load(capsys.readouterr().out)["data"]
        return {name: found[name] for name in SQUASHED}

    folder = "--data.dataset=folder"
    assert settings(folder) == SQUASHED
    assert settings(folder, "--data.fit=cover") == SQUASHED | {"fit": "cover"}
    usual = {"fit": "cover", "crop_fraction": 1.0, "interpolation": "bicubic"}
    assert settings("--data.dataset=cifar10") == usual


def test_class_names_that_are_not_the_weights_cannot_be_predicted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(here / "w.pth")
    words = "predict --model.pretrained w.pth --data.class_names [cat,dog] --data.images ."
    assert "data.class_names (cat, dog) are not the 5 classes" in fails(words, capsys)
