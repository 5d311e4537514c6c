"""Settings beside published weights: who decides, and what is said."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from timm_weights import folder_of, written
from torch import Tensor

from vitlit import load
from vitlit.__main__ import main
from vitlit.cli.from_weights import origins

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


def test_class_names_that_are_not_the_weights_cannot_be_predicted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(here / "w.pth")
    words = "predict --model.pretrained w.pth --data.class_names [cat,dog] --data.images ."
    assert "data.class_names (cat, dog) are not the 5 classes" in fails(words, capsys)
