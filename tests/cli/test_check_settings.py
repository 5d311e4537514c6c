"""Settings that contradict each other, and what is said of those that a recipe did not foresee."""

import math
import re
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vitlit.cli.check_settings import (
    check_checkpoints,
    check_early_stopping,
    check_first,
    check_model,
    check_model_size,
    check_own_folder,
    check_place,
    check_trainer,
    check_unused,
    check_weights_are_given,
    global_batch_line,
    tell_global_batch,
    warn_of_many_patches,
)
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError


@pytest.mark.parametrize(
    ("images", "processes", "accumulated", "made_for", "line"),
    [
        (512, 1, 1, 0, "global batch 512"),
        (512, 1, 1, 512, "global batch 512"),
        (64, 8, 1, 512, "global batch 512: 8 processes of 64 images"),
        (64, 1, 8, 512, "global batch 512: 8 accumulated batches of 64 images"),
        (32, 4, 2, 0, "global batch 256: 4 processes of 2 accumulated batches of 32 images"),
        (
            512,
            8,
            1,
            512,
            "global batch 4,096: 8 processes of 512 images; the recipe was made for 512: give "
            "--data.batch_size 64 for the same, or a --model.lr that suits this one",
        ),
        (
            512,
            3,
            1,
            512,
            "global batch 1,536: 3 processes of 512 images; the recipe was made for 512: give a "
            "--model.lr that suits this one",
        ),
        (
            128,
            1,
            1,
            1024,
            "global batch 128; the recipe was made for 1,024: give --data.batch_size 1024 for the "
            "same, or a --model.lr that suits this one",
        ),
    ],
)
def test_the_images_of_an_update_are_told(
    images: int, processes: int, accumulated: int, made_for: int, line: str
) -> None:
    assert global_batch_line(images, processes, accumulated, made_for) == line


def test_a_recipe_is_made_for_no_negative_batch() -> None:
    settings = {
        "early_stopping": {"patience": 0, "min_delta": 0.0},
        "checkpoints": {"every_n_steps": 0, "every_minutes": 0.0, "monitor": None},
        "recipe": {"global_batch": -8},
    }
    with pytest.raises(InputError, match=r"recipe\.global_batch -8 is not valid; give 0 or more"):
        check_unused(settings)


@pytest.mark.parametrize("name", ["every_n_steps", "every_minutes"])
def test_a_negative_time_between_checkpoints_is_refused(name: str) -> None:
    usual: dict[str, Any] = {"every_n_steps": 0, "every_minutes": 0, "monitor": "val/acc"}
    check_checkpoints(**usual)
    with pytest.raises(InputError, match=rf"checkpoints\.{name} -1 is not valid"):
        check_checkpoints(**{**usual, name: -1})


@pytest.mark.parametrize("name", ["patience", "min_delta"])
def test_a_negative_patience_is_refused(name: str) -> None:
    usual = {"patience": 0, "min_delta": 0}
    check_early_stopping(**usual)
    with pytest.raises(InputError, match=rf"early_stopping\.{name} -1 is not valid"):
        check_early_stopping(**{**usual, name: -1})


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seed_everything": -1}, "seed_everything -1 is not in 0 to 4294967295"),
        ({"seed_everything": 2**32}, "is not in 0 to 4294967295"),
        ({"weights_only": False}, "weights_only false would run code"),
        ({"model": {"pretrained": ""}}, "model.pretrained '' names no weights"),
        ({"trainer": {"default_root_dir": "s3://a/b"}}, "s3://a/b is a URL"),
        ({"model": {"pretrained": None, "lr": None}}, "model.lr null is not valid"),
        ({"model": {"pretrained": None, "depth": None}}, "model.depth null is not valid"),
        ({"data": {"batch_size": None}}, "data.batch_size null is not valid"),
    ],
    ids=str,
)
def test_what_would_fail_obscurely_later_is_refused_first(
    changes: dict[str, Any], part: str
) -> None:
    fine: dict[str, Any] = {
        "seed_everything": 2**32 - 1,
        "model": {"pretrained": None, "lr": 0.1, "in_chans": None},  # linked: the data decide it
        "data": {"mean": None},
        "trainer": {"default_root_dir": None},
    }
    check_first(fine)
    check_first({**fine, "seed_everything": 0})
    check_first({**fine, "seed_everything": True})  # of Lightning: any seed
    with pytest.raises(InputError, match=re.escape(part)):
        check_first({**fine, **changes})


# Those of a training that is fine; Lightning's own defaults, but for its end.
TRAINER: dict[str, Any] = {
    **dict.fromkeys(("callbacks", "accumulate_grad_batches", "val_check_interval", "max_time")),
    **dict.fromkeys(f"limit_{part}_batches" for part in ("train", "val", "test", "predict")),
    **dict.fromkeys(("gradient_clip_val", "log_every_n_steps", "precision", "fast_dev_run")),
    **{"strategy": "auto", "devices": "auto", "check_val_every_n_epoch": 1, "barebones": False},
    **{"overfit_batches": 0.0, "max_epochs": 1, "max_steps": -1},
}


@pytest.mark.parametrize(
    ("command", "changes", "part"),
    [
        ("fit", {"strategy": "dpp"}, "trainer.strategy dpp is not known; did you mean ddp?"),
        ("fit", {"limit_train_batches": 0}, "limit_train_batches 0 leaves nothing to do"),
        ("validate", {"limit_val_batches": 0.0}, "limit_val_batches 0 leaves nothing to do"),
        ("test", {"limit_test_batches": 0}, "limit_test_batches 0 leaves nothing to do"),
        ("predict", {"limit_predict_batches": 0}, "limit_predict_batches 0 leaves nothing to do"),
        ("fit", {"accumulate_grad_batches": 0}, "accumulate_grad_batches 0 is not positive"),
        ("fit", {"check_val_every_n_epoch": 0}, "check_val_every_n_epoch 0 is not positive"),
        ("fit", {"val_check_interval": 0.0}, "val_check_interval 0.0 is not positive"),
        ("fit", {"gradient_clip_val": -0.5}, "gradient_clip_val -0.5 is negative"),
        ("fit", {"log_every_n_steps": -1}, "log_every_n_steps -1 is negative"),
        ("test", {"barebones": True}, "barebones disables callbacks"),
        ("fit", {"devices": "0"}, "devices 0 leaves none; give 1 or more, or auto"),
        ("fit", {"overfit_batches": 1}, "would replace the order of the data"),
        ("fit", {"precision": "16-true"}, "16-true loses small gradients"),
        ("fit", {"max_epochs": 0}, "trainer.max_epochs 0 trains nothing"),
        ("fit", {"max_steps": 0}, "trainer.max_steps 0 trains nothing"),
        ("fit", {"max_epochs": None}, "training would never end"),
    ],
    ids=str,
)
def test_a_trainer_that_would_do_nothing_or_wrong_is_refused(
    command: str, changes: dict[str, Any], part: str
) -> None:
    check_trainer(TRAINER, command)
    with pytest.raises(InputError, match=re.escape(part)):
        check_trainer({**TRAINER, **changes}, command)


@pytest.mark.parametrize(
    ("command", "changes"),
    [
        ("fit", {"limit_test_batches": 0}),  # of another command
        ("fit", {"limit_train_batches": 1, "limit_val_batches": 0}),
        ("fit", {"val_check_interval": 0.25, "accumulate_grad_batches": 1}),
        ("fit", {"gradient_clip_val": 0, "log_every_n_steps": 0}),
        ("fit", {"precision": "16-mixed"}),
        ("fit", {"max_epochs": None, "max_steps": 1}),
        ("fit", {"max_epochs": None, "max_time": "00:00:01:00"}),
        ("fit", {"max_epochs": None, "fast_dev_run": True}),
        ("test", {"max_epochs": None, "precision": "16-true"}),
        ("test", {"max_epochs": 0, "max_steps": 0}),
    ],
    ids=str,
)
def test_a_trainer_at_the_edge_of_what_is_refused_is_fine(
    command: str, changes: dict[str, Any]
) -> None:
    check_trainer({**TRAINER, **changes}, command)


@pytest.mark.parametrize("as_list", [True, False])
def test_a_callback_that_chooses_a_setting_too_late_is_refused(as_list: bool) -> None:
    harmless = {"class_path": "pytorch_lightning.callbacks.Timer"}
    tuner = {"class_path": "pytorch_lightning.callbacks.BatchSizeFinder"}
    check_trainer({**TRAINER, "callbacks": [harmless] if as_list else harmless}, "fit")
    with pytest.raises(InputError, match=r"batch size .* set --data\.batch_size"):
        check_trainer({**TRAINER, "callbacks": [harmless, tuner] if as_list else tuner}, "fit")


@pytest.mark.parametrize(("trains", "needed"), [(False, 9600), (True, 38400)])
def test_a_model_must_fit_into_the_memory(
    trains: bool, needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 2 blocks of 4 matrices 10x10 in attention and 2 of 10x40 in the MLP: 2400 weights of 4 bytes
    model = {"embed_dim": 10, "depth": 2, "mlp_ratio": 4.0}
    monkeypatch.setattr("vitlit.cli.check_settings.memory_bytes", lambda: needed)
    check_model_size(model, trains_on_cpu=trains)
    monkeypatch.setattr("vitlit.cli.check_settings.memory_bytes", lambda: needed - 1)
    with pytest.raises(InputError, match="embed_dim 10 and depth 2 make a model of"):
        check_model_size(model, trains_on_cpu=trains)


@pytest.mark.parametrize(("accelerator", "command"), [("gpu", "fit"), ("cpu", "test")])
def test_gradients_need_memory_of_the_machine_only_in_a_training_on_cpus(
    accelerator: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"embed_dim": 10, "depth": 2, "mlp_ratio": 4.0}
    monkeypatch.setattr("vitlit.cli.check_settings.memory_bytes", lambda: 9600)
    monkeypatch.setattr("vitlit.cli.check_settings.device_type", lambda name: name)
    check_model(model, {"accelerator": accelerator}, command)
    with pytest.raises(InputError, match="embed_dim 10 and depth 2"):
        check_model(model, {"accelerator": "cpu"}, "fit")


def test_a_memory_of_unknown_size_refuses_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitlit.cli.check_settings.memory_bytes", lambda: None)
    check_model_size({"embed_dim": 10**6, "depth": 99, "mlp_ratio": 4.0}, trains_on_cpu=True)


def test_images_of_very_many_patches_are_warned_of() -> None:
    def vit(cols: int) -> Any:
        size = (128, 2 * cols)
        return SimpleNamespace(grid_size=(64, cols), img_size=size, config={"patch_size": 2})

    warn_of_many_patches(vit(64))  # 4096 patches: warnings are errors here
    with pytest.warns(UserWarning, match="128x130 pixels in patches of 2 make 4,160 tokens"):
        warn_of_many_patches(vit(65))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_patience_without_end_is_no_number_of_validations(value: float) -> None:
    with pytest.raises(InputError, match=r"early_stopping\.min_delta (inf|nan) is not valid"):
        check_early_stopping(0, value)


@pytest.mark.parametrize(
    ("group", "setting"),
    [
        ("early_stopping", {"patience": -1, "min_delta": 0}),
        ("checkpoints", {"every_n_steps": -1, "every_minutes": 0, "monitor": "val/acc"}),
        ("recipe", {"global_batch": -1}),
        ("ema", {"decay": 1.0}),
    ],
)
def test_settings_of_a_training_are_checked_in_commands_that_train_nothing(
    group: str, setting: dict[str, Any]
) -> None:
    fine: dict[str, Any] = {
        "early_stopping": {"patience": 0, "min_delta": 0},
        "checkpoints": {"every_n_steps": 0, "every_minutes": 0, "monitor": "val/acc"},
        "recipe": {"global_batch": 0},
        "ema": {"decay": 0.0},
        "model": {},
    }
    check_unused(fine)
    with pytest.raises(InputError, match=group):
        check_unused({**fine, group: setting})


def test_blocks_are_frozen_only_with_weights() -> None:
    usual = {"pretrained": None, "freeze_blocks": 0, "lora_rank": 0}
    check_weights_are_given(usual)
    for name in ("freeze_blocks", "lora_rank"):
        check_weights_are_given({**usual, "pretrained": "a.pth", name: 2})
        with pytest.raises(InputError, match=f"{name} 2 would freeze untrained weights"):
            check_weights_are_given({**usual, name: 2})
    with pytest.raises(InputError, match="this recipe fine-tunes weights that you choose"):
        check_weights_are_given({"pretrained": "???", "freeze_blocks": 0})


def test_an_own_folder_is_not_left_unread() -> None:
    check_own_folder({"dataset": "folder", "data_dir": "photos"})
    with pytest.raises(InputError, match=r"photos holds .* which data\.dataset mnist"):
        check_own_folder({"dataset": "mnist", "data_dir": "photos"})


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        ("explain", "explain was given no images"),
        ("fit", "fit was given no folder of images"),
        ("test", "test was given no folder of images"),
        ("predict", None),
        ("export", None),
    ],
)
def test_the_default_folder_holds_nobodys_images(command: str, refusal: str | None) -> None:
    default = signature(PlainImageData).parameters["data_dir"].default
    data = {"dataset": "folder", "data_dir": default, "images": None}
    for other in ({"dataset": "mnist"}, {"data_dir": "photos"}, {"images": ["a.png"]}):
        check_place({"data": data | other}, command)
    for place in (default, str(Path(default).expanduser())):
        with nullcontext() if refusal is None else pytest.raises(InputError, match=refusal):
            check_place({"data": data | {"data_dir": place}}, command)


@pytest.mark.parametrize(("made_for", "is_told"), [(0, False), (48, False), (8, True), (-1, True)])
def test_a_global_batch_is_told_if_the_recipe_was_made_for_another(
    made_for: int, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trainer: Any = SimpleNamespace(world_size=2, accumulate_grad_batches=3)
    with caplog.at_level("INFO"):
        tell_global_batch(trainer, 8, made_for)
    assert ("global batch 48: 2 processes of 3 accumulated" in caplog.text) is is_told
