"""The largest batch that fits a GPU: what is tried, what is chosen, and that a run keeps it."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_device import DEVICE, fake_device
from trainings import QUIET, SMALL

from vitlit import ImageData
from vitlit.__main__ import main
from vitlit.cli import batch_size
from vitlit.cli.batch_size import fits, largest_batch, settle_batch_size, trial_step
from vitlit.errors import InputError
from vitlit.training.trainable import TrainableViT

SIZE: dict[str, Any] = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 10}
SIZE |= {"embed_dim": 8, "depth": 1, "num_heads": 2}
FIT = ["fit", "--data.dataset=digits", "--data.batch_size=auto", "--model.patch_size=4", *SMALL]
FIT += [*QUIET, "--trainer.accelerator=cpu", "--trainer.limit_train_batches=2"]
FIT += ["--trainer.limit_val_batches=1", "--trainer.log_every_n_steps=1"]


def trained() -> TrainableViT:
    return TrainableViT(**SIZE)


def data() -> ImageData:
    return ImageData(patch_size=4)


@pytest.mark.parametrize(
    ("room", "images", "found", "tried"),
    [
        (1000, 100, 64, [1, 2, 4, 8, 16, 32, 64]),
        (1000, 64, 64, [1, 2, 4, 8, 16, 32, 64]),
        (33, 100, 32, [1, 2, 4, 8, 16, 32, 64]),
        (1, 100, 1, [1, 2]),
        (1000, 1, 1, [1]),
    ],
)
def test_sizes_double_until_one_does_not_fit(
    room: int, images: int, found: int, tried: list[int]
) -> None:
    seen = []

    def does_fit(size: int) -> bool:
        seen.append(size)
        return size <= room

    assert largest_batch(does_fit, images) == found
    assert seen == tried


def test_a_model_that_fits_no_image_is_refused() -> None:
    with pytest.raises(InputError, match="too little memory for a training step with one image"):
        largest_batch(lambda size: False, 100)


def test_a_step_without_memory_does_not_fit_and_other_errors_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(error: Exception) -> bool:
        def step(*_: Any) -> None:
            raise error

        monkeypatch.setattr(batch_size, "trial_step", step)
        return fits(trained(), data(), 8, torch.device("cpu"), "32-true")

    assert not fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not fail(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling it"))
    with pytest.raises(RuntimeError, match="shapes"):
        fail(RuntimeError("shapes do not agree"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_trial_runs_on_the_device_and_leaves_the_model_alone(precision: str) -> None:
    model = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with fake_device() as gpu:
        gpu.forget()
        trial_step(model, data(), 16, DEVICE, precision)
    assert gpu.launches.total() > 50
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}
    assert all(weight.grad is None for weight in model.parameters())


def test_a_trial_holds_the_images_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = trained(), []
    forward = type(model.vit).forward

    def note(vit: Any, x: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(x.shape), vit.training, x.dtype))
        return forward(vit, x)

    monkeypatch.setattr(type(model.vit), "forward", note)
    trial_step(model, data(), 16, torch.device("cpu"), "32-true")
    assert shapes == [((16, 4, 16), True, torch.float32)]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU for the choice alone, which holds 20 images; the sizes that were tried."""
    tried: list[int] = []

    def step(model: Any, data: Any, size: int, device: torch.device, precision: str) -> None:
        assert (device.type, precision) == ("cuda", "32-true")
        tried.append(size)
        if size > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(batch_size, "device_type", lambda accelerator: "cuda")
    monkeypatch.setattr(batch_size, "trial_step", step)
    for name in ("set_per_process_memory_fraction", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    return tried


def saved(name: str) -> int:
    file = Path("lightning_logs") / name / "checkpoints" / "last.ckpt"
    size: int = torch.load(file, weights_only=True)["datamodule_hyper_parameters"]["batch_size"]
    return size


def test_a_run_stores_the_number_and_keeps_it_when_it_goes_on(
    gpu: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    args = [*FIT, "--trainer.devices=1", "--trainer.precision=32-true", "--trainer.max_epochs=1"]
    with caplog.at_level(logging.INFO):
        assert main([*args, "--run=first"]) == 0
    assert "data.batch_size 16, the largest power of two that fits this GPU" in caplog.text
    assert gpu == [1, 2, 4, 8, 16, 32]
    assert saved("first") == 16
    config = yaml.safe_load(Path("lightning_logs/first/config.yaml").read_text())
    assert config["data"]["batch_size"] == 16
    again = ["--ckpt_path=lightning_logs/first", "--trainer.max_epochs=2", "--run=second"]
    with caplog.at_level(logging.INFO):
        assert main([*args[:-1], *again]) == 0
    assert "data.batch_size 16, as in lightning_logs/first/checkpoints/last.ckpt" in caplog.text
    assert (saved("second"), gpu) == (16, [1, 2, 4, 8, 16, 32])


def test_a_cpu_takes_the_default_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        assert main([*FIT, "--trainer.max_epochs=1", "--run=first"]) == 0
    assert "data.batch_size 128, the default, as auto has no effect on a cpu device" in caplog.text
    assert saved("first") == 128


def test_other_commands_take_the_default_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    settings: Any = {"data": {"batch_size": "auto"}, "trainer": {"accelerator": "auto"}}
    with caplog.at_level(logging.INFO):
        settle_batch_size(settings, "test", None)
    assert (
        settings["data"]["batch_size"]
        == 128
        == ImageData(batch_size="auto", patch_size=4).batch_size
    )
    assert "data.batch_size 128, the default, as auto works only in fit" in caplog.text


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"devices": 2}, {}),
        ({"devices": "auto"}, {}),
        ({"devices": [0, 1]}, {}),
        ({"num_nodes": 2}, {}),
        ({}, {"WORLD_SIZE": "2"}),
    ],
)
def test_several_processes_are_refused(
    changes: dict[str, Any], variable: dict[str, str], gpu: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    trainer = {"accelerator": "gpu", "devices": 1, "num_nodes": 1, **changes}
    settings: Any = {"data": {"batch_size": "auto"}, "trainer": trainer}
    with pytest.raises(InputError, match="this training has several processes"):
        settle_batch_size(settings, "fit", None)
