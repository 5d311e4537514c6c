"""Every command of the README runs, on small local files where it would need a network."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import PhotoFolder
from PIL import Image
from safetensors.torch import save_file
from small_sets import trust_small_files, write_all
from timm.models.vision_transformer import VisionTransformer

from vitlit.__main__ import main

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in BLOCKS[1:]
    for line in block.splitlines()
    if line.startswith("vitlit ")
]
SMALL = ["--config=debug.yaml", "--trainer.accelerator=cpu", "--trainer.devices=1"]


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


def test_the_commands_run_one_after_the_other(
    tmp_path: Path, photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trust_small_files(monkeypatch)
    write_all(tmp_path / "data")
    photo_folder("train+test", count=8)
    Path("folder").mkdir()
    weights = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1)
    save_file(weights.state_dict(), "weights.safetensors")
    for name in ("photo.png", "folder/other.jpg"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(name)
    for command in COMMANDS:
        args = command[1:]
        if args[0] == "fit":
            args += SMALL
        if args[0] == "fit" and "--data.data_dir" not in args:
            args += ["--data.data_dir", "data"]
        assert main([*args, "--trainer.enable_progress_bar=false"]) == 0, command
    assert Path("predictions.csv").is_file()
    assert len(COMMANDS) >= 10
