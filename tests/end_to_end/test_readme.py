"""Every command of the README and of each page runs, on small local files instead of a network.

A block of ``sh`` or ``python`` runs line by line, unless the line before it says why it does not:
``<!-- not run: REASON -->``. Output, and files to copy, are blocks of other languages.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

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
PAGES = sorted((ROOT / "docs").glob("*.md"))
SMALL = ["--trainer.max_epochs=1", "--trainer.max_steps=-1", "--trainer.precision=32-true"]
SMALL += [f"--trainer.limit_{part}_batches=2" for part in ("train", "val")]
SMALL += ["--trainer.log_every_n_steps=1", "--trainer.num_sanity_val_steps=0"]
SMALL += ["--trainer.accumulate_grad_batches=1", "--recipe.global_batch=0"]
SMALL += ["--data.batch_size=4", "--model.depth=2", "--trainer.accelerator=cpu"]
SMALL += ["--trainer.devices=1"]
HUB_NAMES = ("google/vit-base-patch16-224",)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and why it does not run, if it does not."""

    language: str
    text: str
    excuse: str | None


def blocks(path: Path) -> list[Block]:
    pattern = r"(?:<!-- not run: (.+?) -->\n\s*)?```(\w*)\n(.*?)```"
    found = re.findall(pattern, path.read_text(encoding="utf-8"), re.DOTALL)
    return [Block(language, text, excuse or None) for excuse, language, text in found]


def commands(block: Block) -> list[list[str]]:
    """The lines of a shell block, joined where they go on, as words."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


BLOCKS = [block for block in blocks(ROOT / "README.md") if block.language == "sh"]


def test_the_first_block_is_the_two_commands_that_need_nothing() -> None:
    train, test = BLOCKS[0].text.strip().splitlines()
    assert train.startswith("python3 -m venv .venv && ")
    assert train.endswith("vitlit fit --config digits.yaml")
    assert test.startswith("python3 -m venv .venv && ")
    assert "pytest" in test


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_has_no_command_that_neither_runs_nor_says_why(page: Path) -> None:
    known = {"sh", "python", "text", "yaml", "csv", "bash", "cpp", "js"}  # bash: a file to copy
    assert {block.language for block in blocks(page)} <= known
    ran = [block for block in blocks(page) if block.language == "sh" and not block.excuse]
    assert {words[0] for block in ran for words in commands(block)} <= {"vitlit"}


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES],
    ids=lambda path: path.stem,
)
def test_links_to_files_lead_to_files(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in local if link and not (page.parent / link).exists()] == []


def write_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small model as a file, and as the hub's cache would hold it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
    model = timm.create_model("vit_base_patch16_224", **small)
    save_file(model.state_dict(), "weights.safetensors")
    for name in HUB_NAMES:
        home = cache / f"models--{name.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("0" * 40)
        folder = home / "snapshots" / ("0" * 40)
        save_for_hf(model, folder, model_args=small, safe_serialization=True)


def write_labels(folder: Path) -> None:
    """The two files of labels of the page on tasks, for the images of a folder."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
    kinds = ["even;loop", "", "loop;prime", "even"]
    several = [f"{name},{kinds[i % 4]}" for i, name in enumerate(files)]
    numbers = [f"{name},{i / 4}" for i, name in enumerate(files)]
    Path("labels.csv").write_text("\n".join(["file,classes", *several]))
    Path("numbers.csv").write_text("\n".join(["file,target", *numbers]))


def run_command(words: list[str]) -> None:
    """One ``vitlit`` command, as a user types it, but small."""
    args = words[1:]
    if args[0] == "fit":
        continues = "--ckpt_path" in args  # with the checkpoint's data, for more epochs
        # a pretraining of the page has its own depth
        kept = ["max_epochs"] * continues + ["depth"] * ("--model.pretrained" in args)
        args += [word for word in SMALL if not any(name in word for name in kept)]
        if not (continues or Path(args[1]).is_dir() or "--data.data_dir" in args):
            args += ["--data.data_dir", "data"]
    if args[0] == "pretrain":  # whose own sizes stay
        args += ["--trainer.max_epochs=1", "--data.batch_size=4", "--trainer.accelerator=cpu"]
        args += ["--trainer.devices=1"]
    quiet = [] if args[0] in ("runs", "shard") else ["--trainer.enable_progress_bar=false"]
    assert main([*args, *quiet]) == 0, words


@pytest.mark.first
@pytest.mark.parametrize(
    "path",
    [
        ROOT / "README.md",
        *(pytest.param(path, marks=pytest.mark.slow) for path in PAGES),
    ],
    ids=lambda path: path.stem,
)
def test_the_commands_run_one_after_the_other(
    path: Path, tmp_path: Path, photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trust_small_files(monkeypatch)
    if path in PAGES:  # which read other data sets than the digits
        write_all(tmp_path / "data")
    write_weights(tmp_path / "hub", monkeypatch)
    photo_folder("train+test", count=8)
    Path("folder").mkdir()
    for name in ("photo.png", "folder/other.jpg"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(name)
    write_labels(Path("photos"))
    set_up = BLOCKS[0].text  # .ci/run runs it
    names: dict[str, object] = {}  # of the page's Python
    for block in blocks(path):
        if block.excuse or block.text == set_up:
            continue
        if block.language == "python":
            for package in re.findall(r"^(?:import|from) (\w+)", block.text, re.MULTILINE):
                pytest.importorskip(package)
            exec(compile(block.text, str(path), "exec"), names)
        elif block.language == "sh":
            for words in commands(block):
                run_command(words)
