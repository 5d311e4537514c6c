"""Which weights and images a command takes: one source of each, and none by accident."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from vitlit import ImageData, load
from vitlit.__main__ import main
from vitlit.model.vit import ViT
from vitlit.weights.adapt import adapt_weights
from vitlit.weights.pretrained import load_weights

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
QUIET += ["--trainer.accelerator=cpu", "--trainer.devices=1"]
TINY = ["--data.dataset=digits", "--data.batch_size=16", "--trainer.limit_train_batches=2"]
TINY += ["--trainer.limit_val_batches=1", "--trainer.max_epochs=1", "--model.schedule=constant"]
TINY += ["--trainer.log_every_n_steps=1"]
COMMANDS = ["validate", "test", "predict --data.images a.png", "explain", "export", "probe"]
COMMANDS += ["compare"]


def last(run: str) -> Path:
    return Path("lightning_logs") / run / "checkpoints" / "last.ckpt"


def state(run: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(last(run), weights_only=True)
    return found


def fit(*args: str, config: str | None = None) -> int:
    configs = [] if config is None else ["--config", config]  # first: later words win
    return main(["fit", *configs, *TINY, *QUIET, *args])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.pth, timm's weights of a small ViT for 8x8 images and five classes, and
    the run first, which began with them and whose first two blocks are frozen.
    """
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=64, depth=3, num_heads=1, num_classes=5
    )
    torch.save(model.state_dict(), folder / "tiny.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        args = ["--model.pretrained=tiny.pth", "--model.freeze_blocks=2", "--model.lr=0.1"]
        assert fit(*args, "--run=first") == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, in a copy of the folder, which is the one to work in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return last("first")


def message(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text[text.rindex("vitlit:") :]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_checkpoint_and_other_weights_together_are_refused(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [f"--ckpt_path={run}", "--model.pretrained=tiny.pth"]
    assert main([*command.split(), *both, *QUIET]) == 2
    text = message(capsys)
    assert "tiny.pth" in text
    assert str(run) in text
    assert "leave out --model.pretrained" in text


def test_a_training_goes_on_with_the_weights_it_began_with_named_again(run: Path) -> None:
    again = ["--model.pretrained=tiny.pth", "--model.freeze_blocks=2", "--trainer.max_epochs=2"]
    assert fit(*again, f"--ckpt_path={run}", "--run=second") == 0
    assert state("second")["global_step"] == 4


def test_the_same_command_again_goes_on_after_an_interruption(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.parents[1] / "finished").unlink()
    same = ["--model.pretrained=tiny.pth", "--model.freeze_blocks=2", "--trainer.max_epochs=3"]
    assert fit(*same, "--run=first") == 0
    assert state("first")["global_step"] == 6


def test_a_training_does_not_go_on_with_weights_that_it_did_not_begin_with(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--model.pretrained=other.pth", f"--ckpt_path={run}", "--run=second") == 2
    assert "began with tiny.pth" in message(capsys)


@pytest.mark.parametrize("option", ["freeze_blocks=0", "layer_decay=0.75", "decay=all"])
def test_what_makes_the_groups_of_parameters_stays_as_it_was(
    option: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(f"--ckpt_path={run}", f"--model.{option}", "--run=second") == 2
    text = message(capsys)
    assert f"model.{option.replace('=', ' ')} contradicts" in text
    assert f"--model.pretrained {run}" in text


def test_a_new_training_from_a_checkpoint_trains_what_was_frozen(run: Path) -> None:
    name = "vit.blocks.0.mlp.fc1.weight"
    before = state("first")["state_dict"][name]
    assert fit(f"--model.pretrained={run}", "--run=second", "--model.lr=0.1") == 0
    assert not torch.equal(state("second")["state_dict"][name], before)
    assert state("second")["global_step"] == 2


@pytest.mark.parametrize(
    "recipe", ["finetune.yaml", "cifar10_finetune.yaml", "reference/cifar10_vit_b16.yaml"]
)
def test_a_recipe_of_fine_tuning_wants_weights(
    recipe: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", recipe, "--data.data_dir=photos", *QUIET]) == 2
    assert "give --model.pretrained" in message(capsys)


def test_a_recipe_of_fine_tuning_goes_on_without_naming_the_weights_again(run: Path) -> None:
    args = ["--model.layer_decay=1", "--trainer.max_epochs=2", "--run=second"]
    assert fit(*args, f"--ckpt_path={run}", config="finetune.yaml") == 0
    assert state("second")["hyper_parameters"]["pretrained"] == "tiny.pth"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("fit --config finetune.yaml --model.pretrained tiny.pth", ["give --data.data_dir"]),
        ("test --model.pretrained tiny.pth", ["give --data.data_dir"]),
        ("explain --model.pretrained tiny.pth", ["give --data.images"]),
    ],
)
def test_images_that_were_not_named_are_asked_for(
    words: str, parts: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), *QUIET]) == 2
    text = message(capsys)
    assert all(part in text for part in parts), text
    assert ".cache" not in text


@pytest.mark.parametrize("command", ["test", "predict --data.images a.png", "fit"])
def test_a_checkpoint_refuses_images_of_another_size(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--data.img_size=16", f"--ckpt_path={run}"]
    assert main([*command.split(), *more, *QUIET]) == 2
    text = message(capsys)
    assert "data.img_size 16 contradicts" in text
    assert f"--model.pretrained {run}" in text


def test_a_square_given_by_both_sides_is_the_size_it_is(run: Path) -> None:
    assert main(["test", f"--ckpt_path={run}", *QUIET]) == 0
    report = run.parents[1] / "test_report" / "metrics.json"
    before = json.loads(report.read_text())
    shutil.rmtree(report.parent)
    assert main(["test", "--data.img_size=[8,8]", f"--ckpt_path={run}", *QUIET]) == 0
    assert json.loads(report.read_text()) == before


def test_weights_of_a_checkpoint_score_images_of_another_size(run: Path) -> None:
    other = ["--data.img_size=16", "--data.dataset=digits"]
    assert main(["test", f"--model.pretrained={run}", *other, *QUIET]) == 0
    found = json.loads(Path("test_report/metrics.json").read_text())
    assert found["scores"]["images"] == 359
    model, preprocess, _ = load(run)
    weights = load_weights(run)
    larger = ViT(**{**model.config, "img_size": 16})
    larger.load_state_dict(adapt_weights(weights, larger)[0])
    data = ImageData(patch_size=4)
    data.setup("test")
    split = data.splits["test"]
    pixels = replace(preprocess, img_size=(16, 16))(split.images.gather(split.members))
    with torch.no_grad():
        right = larger.eval()(pixels).argmax(dim=1) == split.labels
    assert found["scores"]["acc"] == pytest.approx(float(right.float().mean()))


@pytest.fixture
def body(run: Path) -> str:
    """Weights without a head: of timm's model, as published backbones are."""
    state = torch.load("tiny.pth", weights_only=True)
    torch.save({name: v for name, v in state.items() if "head" not in name}, "body.pth")
    return "--model.pretrained=body.pth"


@pytest.fixture
def images(run: Path) -> list[str]:
    """Three images in the folder in which the test works."""
    for name, level in (("a.png", 10), ("b.png", 120), ("c.png", 250)):
        Image.new("RGB", (9, 9), (level, 90, 60)).save(name)
    return ["--data.images", "a.png", "b.png", "c.png"]


def test_weights_without_a_head_are_exported_as_a_backbone(
    body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", body, *QUIET]) == 0
    assert "gives features (B, 64)" in capsys.readouterr().out
    theirs = timm.create_model("local-dir:export", pretrained=True).state_dict()
    ours = torch.load("body.pth", weights_only=True)
    torch.testing.assert_close(dict(theirs), dict(ours))


def test_weights_without_a_head_are_explained_but_for_classes(
    body: str, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", body, *QUIET, *images]) == 0
    assert "left out    predicted classes and relevance" in capsys.readouterr().out
    assert Path("explanation/index.html").is_file()


def test_weights_without_a_head_are_explained_on_a_data_set(body: str) -> None:
    assert main(["explain", body, "--data.dataset=digits", "--count=2", *QUIET]) == 0
    with np.load("explanation/arrays.npz") as arrays:
        assert arrays["names"].tolist()[0].startswith("digits val ")


def test_weights_without_a_head_are_not_scored(
    body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", body, "--data.dataset=digits", *QUIET]) == 2
    assert "body.pth has no head" in message(capsys)


def test_count_limits_the_images_to_explain(
    run: Path, images: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert main(["explain", f"--ckpt_path={run}", "--count=2", *QUIET, *images]) == 0
    with np.load("explanation/arrays.npz") as arrays:
        assert arrays["names"].tolist() == ["a.png", "b.png"]
    assert "the first 2 of 3 images, as --count says" in caplog.messages


def test_freezing_what_nothing_has_trained_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config=digits.yaml", "--model.freeze_blocks=-1"]) == 2
    assert "would freeze untrained weights; give --model.pretrained" in capsys.readouterr().err
