"""Settings beside published weights: who decides, and what is said."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from photo_folder import PhotoFolder
from PIL import Image
from small_vit import preprocess_of, small
from timm_weights import folder_of, written
from torch import Tensor

from vitlit import load
from vitlit.__main__ import main
from vitlit.cli.configs import CONFIGS_FOLDER
from vitlit.cli.from_weights import (
    by_dotted_name,
    check_against_weights,
    given_arguments,
    note_statistics,
    origins,
    small_depth,
    starting_points,
    weights_asked_for,
)
from vitlit.deploy.export import export_model
from vitlit.errors import InputError
from vitlit.images.framing import Framing
from vitlit.weights.pretrained import Weights

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
    assert "the depth of debug.yaml is ignored; the weights have 3 blocks" in caplog.text
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


@pytest.mark.parametrize(
    ("changes", "words", "note"),
    [
        (
            {"global_pool": "map", "pool_mlp_ratio": 2.0, "pool_heads": 2},
            "--model.global_pool=avg",
            "attention pooling dropped",
        ),
        ({"rope": "index", "rope_base": 50.0}, "--model.rope=none", "the model has rope none"),
    ],
    ids=str,
)
def test_what_belongs_to_another_pooling_or_to_rotary_positions_is_left_behind(
    changes: dict[str, Any], words: str, note: str, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = small(img_size=8, **changes).float()
    export_model(model, preprocess_of(model), list("abcde"), here / "out", naming="vitlit")
    with caplog.at_level("INFO"):
        assert main(["fit", "--model.pretrained=out", words, *ONE, *QUIET]) == 0
    assert note in caplog.text


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


def weights_of(names: list[str] | None = None, **changes: Any) -> Weights:
    """Weights that hold nothing, with two blocks and two classes."""
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 4, "mlp_ratio": 4.0, "qkv_bias": True}
    kinds = {"init_values": None, "num_classes": 2, "img_size": 8, "in_chans": 3}
    kinds |= {"attention_init": "xavier"}
    return Weights({}, sizes | kinds | changes, None, None, names, [])


def test_only_what_the_user_gave_is_told_to_the_weights() -> None:
    settings = {"model": {"num_heads": 3, "norm_eps": 1e-6, "act": "gelu"}, "data": {"img_size": 8}}
    where = {"model.num_heads": "a.yaml", "data.img_size": "--data.img_size", "model.lr": "--x"}
    assert given_arguments(settings, where) == {"num_heads": 3, "img_size": 8}
    assert given_arguments(settings, {"model.img_size": "--model.img_size"}) == {}


@pytest.mark.parametrize(
    ("where", "is_left_out"),
    [
        ({"model.depth": str(CONFIGS_FOLDER / "debug.yaml")}, True),
        ({"model.depth": str(CONFIGS_FOLDER / "digits.yaml")}, False),
        ({"model.depth": "--model.depth"}, False),
        ({}, False),
    ],
    ids=["debug", "digits", "option", "nowhere"],
)
def test_the_depth_of_debug_alone_is_left_out(where: dict[str, str], is_left_out: bool) -> None:
    weights = weights_of()
    assert small_depth(weights, where) == (["--model.depth=2"] if is_left_out else [])
    assert len(weights.notes) == is_left_out


@pytest.mark.parametrize(
    ("where", "mean", "dataset", "note"),
    [
        ({}, None, "folder", "which are ImageNet's"),
        ({"model.lr": "--model.lr"}, None, "digits", "which are those of digits"),
        ({"data.mean": "--data.mean"}, None, "folder", None),
        ({"data.std": "a.yaml"}, None, "folder", None),
        ({"data.normalize": "a.yaml"}, None, "folder", None),
        ({}, (0.5,), "folder", None),
    ],
)
def test_statistics_that_nobody_told_are_noted(
    where: dict[str, str], mean: Any, dataset: str, note: str | None
) -> None:
    weights = weights_of()._replace(mean=mean)
    note_statistics(weights, SimpleNamespace(mean=[0.5], std=[0.2], dataset=dataset), where)
    assert len(weights.notes) == (note is not None)
    assert note is None or note in weights.notes[0]


@pytest.mark.parametrize(
    ("command", "names", "theirs", "classes", "is_refused"),
    [
        ("test", ["cat", "dog"], ["cat", "dog"], 2, False),
        ("test", ["dog", "cat"], ["cat", "dog"], 2, False),  # the order of a folder may differ
        ("test", ["bat", "cow"], ["cat", "dog"], 2, True),  # before theirs in the alphabet
        ("test", ["emu", "fox"], ["cat", "dog"], 2, True),  # behind them
        ("test", ["cat", "dog", "emu"], ["cat", "dog"], 2, True),
        ("test", ["bat", "cow"], None, 2, False),  # of weights that name none
        ("test", ["bat"], None, 2, True),
        ("test", None, None, 2, True),
        ("test", ["bat"], ["cat"], 1, True),  # a head of one class is a head
        ("test", ["bat"], None, 0, False),
        ("fit", ["bat"], ["cat", "dog"], 2, False),
        ("probe", ["bat"], ["cat", "dog"], 2, False),
        ("predict", ["bat"], ["cat", "dog"], 2, True),
        ("predict --output features", ["bat"], ["cat", "dog"], 2, False),
    ],
)
def test_classes_are_those_of_the_head_that_answers(
    command: str, names: Any, theirs: list[str] | None, classes: int, is_refused: bool
) -> None:
    weights = weights_of(theirs, num_classes=classes)
    settings = {"model": {**weights.arguments, "pretrained": "w.pth"}}
    settings |= {"data": {"class_names": names}}
    if command.endswith("features"):
        settings["output"] = "features"  # type: ignore[assignment]
    refusal = pytest.raises(InputError, match=rf"are not the {classes} class\S+ of w\.pth")
    with refusal if is_refused else nullcontext():
        check_against_weights(settings, weights, {}, command.split()[0])


@pytest.mark.parametrize(
    "name",
    ["embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values", "attention_init"],
)
def test_what_weights_decide_cannot_be_set(name: str) -> None:
    weights = weights_of()
    settings = {"model": {**weights.arguments, "pretrained": "w.pth", name: 7}, "data": {}}
    for where, way in (
        ({}, f"; leave out --model.{name}"),
        ({f"model.{name}": f"--model.{name}"}, f"; leave out --model.{name}"),
        ({f"model.{name}": "a.yaml"}, "; leave it out there, or give --model."),
    ):
        with pytest.raises(InputError, match=f"model.{name} 7.* contradicts w.pth.*{way}"):
            check_against_weights(settings, weights, where, "fit")


def test_arguments_left_out_in_python_have_their_defaults() -> None:
    weights = weights_of()
    whole = {**weights.arguments, "pretrained": "w.pth"}
    del weights.arguments["qkv_bias"]  # as Classifier(embed_dim=...) keeps only what it was given
    settings = {"model": whole, "data": {"class_names": None}}
    check_against_weights(settings, weights, {}, "probe")
    whole["qkv_bias"] = False
    with pytest.raises(InputError, match=r"qkv_bias False contradicts w\.pth, which has True"):
        check_against_weights(settings, weights, {}, "probe")


@pytest.mark.parametrize(
    ("command", "more", "classes", "expected"),
    [
        ("fit", {}, 2, {}),
        ("probe", {}, 2, {"in_chans": 3}),
        ("test", {}, 2, {"dataset": "folder", "class_names": ["0", "1"], "in_chans": 3}),
        ("explain", {}, 0, {"dataset": "folder", "in_chans": 3}),
        ("export", {}, 0, {"dataset": "folder", "class_names": ["0", "1"], "in_chans": 3}),
        (
            "predict",
            {"output": "features"},
            0,
            {"dataset": "folder", "class_names": ["0", "1"], "in_chans": 3},
        ),
    ],
)
def test_weights_are_the_defaults_of_model_and_data(
    command: str, more: dict[str, Any], classes: int, expected: dict[str, Any]
) -> None:
    wanted: dict[str, Any] = {"data": {"images": None, "invert": False}, **more}
    weights = weights_of(num_classes=classes)
    model, data = starting_points(weights, wanted, command)
    assert model is weights.arguments
    assert data == {"img_size": 8, **expected}


@pytest.mark.parametrize("command", ["explain", "probe", "anomaly"])
def test_given_images_have_the_classes_of_the_weights(command: str) -> None:
    wanted = {"data": {"images": ["a.png"], "invert": False}}
    _, data = starting_points(weights_of(["cat", "dog"]), wanted, command)
    assert data["class_names"] == ["cat", "dog"]
    _, data = starting_points(weights_of(num_classes=0), wanted, command)
    assert data["class_names"] == ["0", "1"]


@pytest.mark.parametrize(
    ("weights_invert", "asked", "has_mean"),
    [(False, False, True), (True, False, True), (True, True, True), (False, True, False)],
)
def test_statistics_hold_for_images_as_the_weights_saw_them(
    weights_invert: bool, asked: bool, has_mean: bool
) -> None:
    weights = weights_of()._replace(mean=(0.5,), std=(0.25,), invert=weights_invert)
    _, data = starting_points(weights, {"data": {"images": None, "invert": asked}}, "fit")
    assert ("mean" in data) is has_mean
    assert data.get("invert", False) is weights_invert
    assert not has_mean or (data["mean"], data["std"]) == ([0.5], [0.25])


def test_weights_without_a_head_name_no_classes() -> None:
    wanted = {"data": {"images": None, "invert": False}, "model": {"pretrained": "w.pth"}}
    for command in ("test", "predict"):
        with pytest.raises(InputError, match=r"w\.pth has no head, so it has no classes"):
            starting_points(weights_of(num_classes=0), wanted, command)


def test_settings_get_dotted_names_if_the_command_has_them_and_they_are_free() -> None:
    known = {"model.lr": 1, "model.in_chans": 1, "data.img_size": 1}
    found = by_dotted_name(known, model={"lr": 0.1, "in_chans": 3, "b": 2}, data={"img_size": 8})
    assert found == {"model.lr": 0.1, "data.img_size": 8}


def test_weights_that_a_recipe_leaves_to_its_user_are_none() -> None:
    assert weights_asked_for({"pretrained": "???"}) is None
    assert weights_asked_for({"pretrained": "w.pth"}) == "w.pth"
