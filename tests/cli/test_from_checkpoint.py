"""Which weights and images a command takes: one source of each, and none by accident."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from jsonargparse import Namespace
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from vitlit import ImageData, load
from vitlit.__main__ import main
from vitlit.cli.can_go_on import (
    check_average,
    check_can_go_on,
    check_is_not_stopped,
    check_is_unfinished,
)
from vitlit.cli.from_checkpoint import (
    FromCheckpoint,
    check_against_checkpoint,
    check_checkpoint,
    check_held_out,
    check_one_model,
    data_of_checkpoint,
    tell_changed,
    tell_saved,
)
from vitlit.data.leakage import PastTraining
from vitlit.errors import InputError
from vitlit.model.vit import ViT
from vitlit.weights import checkpoint
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
    args = ["--model.layer_decay=1", "--model.head_lr=null", "--trainer.max_epochs=2"]
    assert fit(*args, "--run=second", f"--ckpt_path={run}", config="finetune.yaml") == 0
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
    assert "returns features (B, 64)" in " ".join(capsys.readouterr().out.split())
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
    assert "using the first 2 of 3 images, as set by --count" in caplog.messages


def test_freezing_what_nothing_has_trained_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config=digits.yaml", "--model.freeze_blocks=-1"]) == 2
    assert "would freeze untrained weights; give --model.pretrained" in capsys.readouterr().err


CKPT = Path("a.ckpt")


@pytest.mark.parametrize(("command", "keeps"), [("fit", True), ("test", False), ("export", False)])
def test_only_a_training_takes_over_the_settings_of_the_trainer(
    command: str, keeps: bool, run: Path
) -> None:
    first = {"model": {"pretrained": None}, "data": {"images": None}, "trainer.max_epochs": None}
    start = FromCheckpoint(run, Namespace(first), command, {})
    assert ("trainer.max_epochs" in start.defaults()) is keeps
    assert start.kept.get("trainer.max_epochs") == (1 if keeps else None)
    assert start.steps == 2


def test_a_checkpoint_that_counts_no_steps_is_before_the_first(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {**checkpoint.read_checkpoint(run), "global_step": "many"}
    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda _: content)
    first = {"model": {"pretrained": None}, "data": {"images": None}}
    assert FromCheckpoint(run, first, "test", {}).steps == 0


@pytest.mark.parametrize(
    ("asked", "has", "is_refused"),
    [
        (None, 8, False),
        (8, None, False),
        (None, None, False),
        (8, 8, False),
        ([8, 8], 8, False),
        (8, (8, 8), False),
        (8, 16, True),
        ([8, 16], 8, True),
        ([8, 16], [16, 8], True),
    ],
)
@pytest.mark.parametrize("name", ["img_size", "in_chans"])
def test_images_have_the_shape_of_the_model_or_none_that_is_asked_for(
    name: str, asked: Any, has: Any, is_refused: bool
) -> None:
    data = {"img_size": None, "in_chans": None, name: asked}
    refusal = pytest.raises(InputError, match=f"data.{name} .* contradicts a.ckpt")
    with refusal if is_refused else nullcontext():
        check_checkpoint({"model": {}, "data": data}, {name: has}, CKPT, "test")


NO_ADAPTERS = {"lora_rank": 0, "lora_alpha": None}


@pytest.mark.parametrize(
    ("command", "asked", "is_refused"),
    [
        ("test", {"depth": 3}, True),
        ("fit", {"depth": 3}, True),
        ("test", {"drop_path_rate": 0.1}, False),
        ("fit", {"drop_path_rate": 0.1}, False),
        ("fit", {"optimizer": "muon"}, True),
        ("test", {"optimizer": "muon"}, False),
        ("fit", {"layer_decay": 0.5}, True),
        ("test", {"layer_decay": 0.5}, False),
        ("fit", {"head_lr": 0.5}, True),
        ("test", {"head_lr": 0.5}, False),
    ],
    ids=str,
)
def test_what_a_checkpoint_decides_depends_on_the_command(
    command: str, asked: dict[str, Any], is_refused: bool
) -> None:
    saved = {"depth": 2, "drop_path_rate": 0.0, "optimizer": "adamw", "layer_decay": 1.0}
    saved |= NO_ADAPTERS
    check_against_checkpoint({**saved}, saved, CKPT, command)
    refusal = pytest.raises(InputError, match=f"model.{next(iter(asked))} .* contradicts a.ckpt")
    with refusal if is_refused else nullcontext():
        check_against_checkpoint({**saved, **asked}, saved, CKPT, command)


def test_a_setting_that_an_older_checkpoint_does_not_know_is_free() -> None:
    check_against_checkpoint({"depth": 2, "freeze_blocks": 1, **NO_ADAPTERS}, {}, CKPT, "fit")
    check_against_checkpoint({}, {"depth": 2}, CKPT, "test")


def test_a_probe_takes_its_classes_from_its_own_data() -> None:
    data = {"class_names": ["a", "b"], "img_size": 8}
    folder = {"data": {"images": None, "labels": None}}
    files = {"data": {"images": ["a.png"], "labels": None}}
    assert data_of_checkpoint(data, folder, "probe", {}) == {"img_size": 8}
    assert data_of_checkpoint(data, files, "probe", {}) == data
    assert data_of_checkpoint(data, folder, "test", {}) == data


@pytest.mark.parametrize(
    ("place", "is_same"),
    [("photos", True), ("./photos", True), ("faces", False)],
)
def test_a_probe_of_other_data_takes_no_labels_nor_folds_of_the_training(
    place: str, is_same: bool
) -> None:
    own = {"labels": "a.csv", "fold": "1/5", "target": None}
    data = {"data_dir": "photos", "dataset": "folder", "img_size": 8, **own}
    asked = {"data": {"images": None, "labels": None, "data_dir": place, "dataset": "folder"}}
    found = data_of_checkpoint(data, asked, "probe", {"data.data_dir": "--data.data_dir"})
    assert found == (
        data if is_same else {"data_dir": "photos", "dataset": "folder", "img_size": 8}
    )


@pytest.mark.parametrize("had", [True, False])
def test_a_moving_average_is_resumed_as_it_was(had: bool) -> None:
    content = {"averaging_state": {}} if had else {}
    check_average({"decay": 0.9 if had else 0.0}, content, CKPT)
    with pytest.raises(InputError, match="give --ema" if had else "leave out --ema"):
        check_average({"decay": 0.0 if had else 0.9}, content, CKPT)


@pytest.mark.parametrize(
    ("command", "source", "kept", "part"),
    [
        ("fit", None, "w.pth", None),
        ("test", None, None, None),
        ("fit", "w.pth", "w.pth", None),
        ("fit", "w.pth", "v.pth", "whose training began with v.pth"),
        ("fit", "w.pth", None, "whose training began with no other weights"),
        ("test", "w.pth", "w.pth", "are two models; give test one of them"),
    ],
)
def test_one_command_starts_from_one_model(
    command: str, source: str | None, kept: str | None, part: str | None
) -> None:
    with nullcontext() if part is None else pytest.raises(InputError, match=part):
        check_one_model(source, {"pretrained": kept}, CKPT, command)


def test_settings_that_come_from_a_checkpoint_are_told(caplog: pytest.LogCaptureFixture) -> None:
    kept = {"seed_everything": 3, "trainer.max_epochs": 9, "ema.decay": 0.0}
    without = {"seed_everything": 0, "trainer.max_epochs": None, "ema.decay": 0.0}
    with caplog.at_level("INFO"):
        tell_saved(kept, without, {**kept, "trainer.max_epochs": 20}, CKPT)
        told = caplog.messages[:]
        tell_saved(kept, kept, kept, CKPT)  # all defaults anyway
    assert told == ["settings from a.ckpt: seed_everything 3 (flags and configs override them)"]
    assert caplog.messages == told


def test_settings_that_are_not_those_of_the_checkpoint_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = {
        checkpoint.MODEL_KEY: {"lr": 0.1, "gone": 1, "depth": 2},
        checkpoint.DATA_KEY: {"batch_size": 8, "odd": object()},
    }
    now = {"model": {"lr": 0.2, "depth": 2, "new": 1}, "data": {"batch_size": 4, "odd": 1}}
    with caplog.at_level("INFO"):
        tell_changed(content, now, CKPT)
        tell_changed(content, {"model": {"lr": 0.1}, "data": {}}, CKPT)  # nothing differs
        place = {checkpoint.MODEL_KEY: {}, checkpoint.DATA_KEY: {"data_dir": str(Path.cwd() / "x")}}
        tell_changed(place, {"model": {}, "data": {"data_dir": "no/../x"}}, CKPT)  # the same place
    assert caplog.messages == [
        "changed since a.ckpt: model.lr 0.2 (was 0.1), data.batch_size 4 (was 8)"
    ]


SPLIT = {
    "dataset": "digits",
    "data_dir": "here",
    "split_seed": 0,
    "test_fraction": 0.2,
    "val_fraction": 0.1,
}


@pytest.mark.parametrize("name", ["split_seed", "test_fraction", "val_fraction"])
def test_a_training_goes_on_with_its_own_split(name: str) -> None:
    past = PastTraining(SPLIT, {})
    check_held_out(past, {**SPLIT}, CKPT)
    with pytest.raises(InputError, match=rf"data.{name} 0.5 contradicts a.ckpt, which has"):
        check_held_out(past, {**SPLIT, name: 0.5}, CKPT)


@pytest.mark.parametrize("has_record", [True, False])
def test_a_folder_whose_split_is_not_recorded_is_resumed_with_a_warning(
    has_record: bool, tmp_path: Path
) -> None:
    data = {**SPLIT, "dataset": "folder", "data_dir": str(tmp_path), "split_by": "position"}
    (tmp_path / "cat").mkdir()
    record: Any = {"val": torch.zeros(1, 2)} if has_record else {}
    warns = pytest.warns(UserWarning, match="does not record which images it held out")
    with nullcontext() if has_record else warns:
        check_held_out(PastTraining(data, record), {**data}, CKPT)


def content_of(epochs: int, steps: int, kept: dict[str, Any] | None = None) -> dict[str, Any]:
    """The parts of a checkpoint that a training resumes from, after so many epochs and steps."""
    progress = {"epoch_progress": {"current": {"processed": epochs}}}
    lists = {"optimizer_states": [], "lr_schedulers": [], "callbacks": {}}
    return {
        **lists,
        "loops": {"fit_loop": progress},
        "global_step": steps,
        checkpoint.TRAINING: kept,
    }


@pytest.mark.parametrize(
    ("limits", "part"),
    [
        ({"max_epochs": 3, "max_steps": -1}, "already reached max_epochs 3"),
        ({"max_epochs": 2, "max_steps": -1}, "give --trainer.max_epochs above 3"),
        ({"max_epochs": 4, "max_steps": 60}, "already reached max_steps 60"),
        ({"max_epochs": 4, "max_steps": 61}, None),
        ({"max_epochs": None, "max_steps": -1}, None),
        ({"max_epochs": -1, "max_steps": -1}, None),
    ],
    ids=str,
)
def test_a_training_that_has_reached_its_limits_is_refused(
    limits: dict[str, Any], part: str | None
) -> None:
    with nullcontext() if part is None else pytest.raises(InputError, match=part):
        check_is_unfinished(content_of(3, 60), limits, CKPT)


@pytest.mark.parametrize(
    "changes",
    [{"global_step": None}, {"global_step": "many"}, {"loops": {}}, {"loops": None}],
    ids=str,
)
def test_a_file_without_the_state_of_a_training_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"a\.ckpt holds no state of a training"):
        check_is_unfinished(content_of(3, 60) | changes, {"max_epochs": 9, "max_steps": -1}, CKPT)


@pytest.mark.parametrize("patience", [0, 1, 4, 5, 6])
def test_a_training_that_early_stopping_would_end_at_once_is_refused(patience: int) -> None:
    states = {"EarlyStopping{'monitor': 'val/acc'}": {"wait_count": 5}, "LastCheckpoint": {}}
    refusal = pytest.raises(InputError, match="after 5 validations without a better score")
    with refusal if patience in (1, 4, 5) else nullcontext():
        check_is_not_stopped({"callbacks": states}, patience, CKPT)
    check_is_not_stopped({"callbacks": {"Other": {"wait_count": 9}}}, patience, CKPT)


@pytest.mark.parametrize("folder", ["own", "other", None])
def test_only_the_same_command_again_may_find_nothing_left_to_do(folder: str | None) -> None:
    kept = {"trainer.max_epochs": 3, "trainer.max_steps": -1}
    trainer = Namespace({"max_epochs": 3, "max_steps": -1})
    settings = Namespace({"trainer": trainer, "early_stopping": {"patience": 0}})
    run = None if folder is None else Path(folder)
    path = Path("own/checkpoints/last.ckpt")
    with nullcontext() if folder == "own" else pytest.raises(InputError, match="already reached"):
        check_can_go_on(content_of(3, 60, kept), settings, run, path)
    settings["trainer"]["max_epochs"] = 2  # other limits are meant to leave something to do
    with pytest.raises(InputError, match="already reached max_epochs 2"):
        check_can_go_on(content_of(3, 60, kept), settings, run, path)


@pytest.mark.parametrize("name", ["optimizer_states", "lr_schedulers", "loops", "callbacks"])
def test_training_does_not_resume_from_bare_weights(name: str) -> None:
    content = content_of(3, 60)
    del content[name]
    with pytest.raises(InputError, match=f"a.ckpt has no {name}, so training cannot resume"):
        check_can_go_on(content, {}, None, CKPT)
