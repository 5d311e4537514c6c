"""Every shipped configuration parses and runs two steps, on small data of the same layout."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as tv

from vitlit.__main__ import main
from vitlit.datasets import CIFAR10_NAMES, CIFAR100_NAMES, SOURCES
from vitlit.shipped import HERE, shipped

OVERLAYS = {"ddp.yaml", "debug.yaml", *(name for name in shipped() if name.startswith("vit_"))}
RECIPES = [name for name in shipped() if name not in OVERLAYS]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
COUNT = 200  # images of each part


def idx(array: np.ndarray) -> bytes:
    """An array in the IDX format of MNIST's files."""
    sizes = np.array(array.shape, dtype=">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, folder: str) -> None:
    rng = np.random.default_rng(0)
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (COUNT, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(COUNT) % 10))


def write_cifar(root: Path, kind: type[tv.CIFAR10], names: tuple[str, ...], key: str) -> None:
    rng = np.random.default_rng(0)
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    for name, _ in [*kind.train_list, *kind.test_list]:
        labels = (np.arange(COUNT) % len(names)).tolist()
        batch = {"data": rng.integers(0, 256, (COUNT, 3072), np.uint8), f"{key}s": labels}
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = {kind.meta["key"]: list(names)}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))


def write_imagenet(root: Path) -> None:
    for part in ("train", "val"):
        for label in range(1000):
            folder = root / part / f"n{label:08}"
            folder.mkdir(parents=True)
            for number in range(2 if part == "train" else 1):
                Image.new("RGB", (8, 8), (label % 256, number, 0)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_mnist(root, "MNIST")
    write_mnist(root, "FashionMNIST")
    write_cifar(root, tv.CIFAR10, CIFAR10_NAMES, "label")
    write_cifar(root, tv.CIFAR100, CIFAR100_NAMES, "fine_label")
    write_imagenet(root)
    return root


@pytest.fixture(autouse=True)
def _trust_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tv.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_two_steps(
    name: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = [f"--data.data_dir={data_dir}", "--data.num_workers=0", "--trainer.accelerator=cpu"]
    args += ["--data.memory_gb=0.1", *QUIET]
    assert main(["fit", "--config", name, "--config", "debug.yaml", *args]) == 0
    [file] = tmp_path.glob("lightning_logs/*/checkpoints/last.ckpt")
    assert torch.load(file, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("name", sorted(OVERLAYS - {"debug.yaml"}))
def test_an_overlay_runs_two_steps_on_top_of_a_recipe(
    name: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = [f"--data.data_dir={data_dir}", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    args += ["--trainer.enable_checkpointing=false"]  # up to half a gigabyte
    configs = ["--config", "cifar10.yaml", "--config", name, "--config", "debug.yaml"]
    assert main(["fit", *configs, *args, *QUIET]) == 0


@pytest.mark.parametrize("name", shipped())
def test_the_header_says_what_to_type_and_recipes_what_to_expect(name: str) -> None:
    text = (HERE / name).read_text()
    command = re.search(r"^# vitlit (fit .*)$", text, re.MULTILINE)
    assert command
    assert name in command[1]
    if name in RECIPES:
        expected = r"^# expected: (not measured|test/acc 0\.\d{4} \+- 0\.\d{4} \(.+\))$"
        assert re.search(expected, text, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("reference/")])
def test_a_reference_separates_what_is_given_from_what_is_ours(name: str) -> None:
    text = (HERE / name).read_text()
    assert "\n# given:" in text
    assert "\n# ours:" in text


def test_every_data_set_but_folder_has_a_recipe() -> None:
    assert {f"{name}.yaml" for name in SOURCES if name != "folder"} <= set(RECIPES)
