"""Every command of README and tour runs, on small local files where it would need a network."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
from huggingface_hub import constants
from photo_folder import PhotoFolder
from PIL import Image
from safetensors.torch import save_file
from small_sets import trust_small_files, write_all
from timm.models import save_for_hf

from vitlit.__main__ import main

ROOT = Path(__file__).parents[2]
SMALL = ["--config=debug.yaml", "--trainer.accelerator=cpu", "--trainer.devices=1"]


def blocks(path: Path) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    lines = [line for block in blocks(path) for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("vitlit ")]


BLOCKS = blocks(ROOT / "README.md")


def test_the_first_block_is_the_two_commands_that_need_nothing() -> None:
    train, test = BLOCKS[0].strip().splitlines()
    assert train.startswith("python3 -m venv .venv && ")
    assert train.endswith("vitlit fit --config digits.yaml")
    assert test.startswith("python3 -m venv .venv && ")
    assert "pytest" in test


def test_other_ways_to_start_are_those_that_are_tested() -> None:
    lines = [line for block in BLOCKS[1:] for line in block.splitlines()]
    others = {line.split()[0] for line in lines if line and not line.startswith("vitlit ")}
    assert others <= {"torchrun", "sbatch"}  # tests/test_ddp.py


def write_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small model as a file, and as the hub's cache would hold it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
    model = timm.create_model("vit_base_patch16_224", **small)
    save_file(model.state_dict(), "weights.safetensors")
    home = cache / "models--google--vit-base-patch16-224"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    save_for_hf(model, home / "snapshots" / ("0" * 40), model_args=small, safe_serialization=True)


@pytest.mark.first
@pytest.mark.parametrize(
    ("path", "least"),
    [
        ("README.md", 10),
        ("docs/attention.md", 3),
        pytest.param("docs/small_data.md", 5, marks=pytest.mark.slow),
    ],
)
def test_the_commands_run_one_after_the_other(
    path: str,
    least: int,
    tmp_path: Path,
    photo_folder: PhotoFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    trust_small_files(monkeypatch)
    write_all(tmp_path / "data")
    write_weights(tmp_path / "hub", monkeypatch)
    photo_folder("train+test", count=8)
    Path("folder").mkdir()
    for name in ("photo.png", "folder/other.jpg"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(name)
    found = commands(ROOT / path)
    assert len(found) >= least
    for command in found:
        args = command[1:]
        if args[0] == "fit":
            args += SMALL
        if args[0] == "fit" and "--data.data_dir" not in args:
            args += ["--data.data_dir", "data"]
        quiet = [] if args[0] == "runs" else ["--trainer.enable_progress_bar=false"]
        assert main([*args, *quiet]) == 0, command
