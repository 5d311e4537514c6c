"""The lines before a training: what it trains on, with what, and for how long."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from photo_folder import PhotoFolder
from PIL import Image

from vitlit import ImageData
from vitlit.commands.run_summary import (
    batch_line,
    class_words,
    data_lines,
    device_words,
    file_sizes,
    image_words,
    model_lines,
)
from vitlit.model.vit import ViT


def photos(root: Path) -> ImageData:
    data = ImageData(dataset="folder", data_dir=str(root), img_size=8, patch_size=4)
    data.setup("fit")
    return data


def test_files_are_told_by_their_sizes_from_the_smallest_to_the_largest(
    photo_folder: PhotoFolder,
) -> None:
    root = photo_folder(count=8)
    paths = sorted(root.glob("*/*"))
    for path in paths:
        Image.new("RGB", (20, 10)).save(path)
    assert image_words(photos(root)) == "files of 20x10 pixels, fitted to 8x8, RGB"
    for number, path in enumerate(paths):
        Image.new("RGB", (20 + number, 10)).save(path)
    split = photos(root).splits["train"]
    widths = [20 + paths.index(Path(path)) for path in split.files(torch.arange(len(split)))]
    assert file_sizes(split) == [(10, width) for width in sorted(widths)]
    words = f"files of {min(widths)}x10 to {max(widths)}x10 pixels, fitted to 8x8, RGB"
    assert image_words(photos(root)) == words


def test_images_without_files_are_told_by_their_pixels() -> None:
    data = ImageData(dataset="digits", patch_size=4)
    data.setup("fit")
    assert image_words(data) == "8x8 pixels, grey"
    data = ImageData(dataset="digits", patch_size=4, img_size=16)
    data.setup("fit")
    assert image_words(data) == "16x16 pixels, grey, resized from 8x8"
    counts = [len(data.splits[name]) for name in ("train", "val")]
    assert f"digits: {counts[0]:,} train, {counts[1]} val, 359 test images" in next(
        data_lines(data)
    )
    assert sum(counts) == 1797 - 359


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 0, 1], "2, each with 2 training images"),
        ([0, 0, 0, 1], "2; the rarest in training is dog (1), the most common cat (3)"),
        ([1, 1], "2; the rarest in training is cat (0), the most common dog (2)"),
    ],
)
def test_classes_are_told_with_the_rarest(labels: list[int], words: str) -> None:
    assert class_words(torch.tensor(labels), ["cat", "dog"]) == words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "10 per epoch, 4 images per update; 3 epochs, 30 updates"),
        ({"max_epochs": 1}, "10 per epoch, 4 images per update; 1 epoch, 30 updates"),
        ({"world_size": 2}, "8 images per update (4 per batch x 2 processes); 3 epochs"),
        ({"accumulate_grad_batches": 2}, "8 images per update (4 per batch x 2 accumulated)"),
        ({"max_epochs": -1, "estimated_stepping_batches": float("inf")}, "4 images per update"),
        ({"num_training_batches": float("inf")}, "4 images per update; 3 epochs"),
    ],
    ids=str,
)
def test_the_length_of_a_training_is_told(changes: dict[str, Any], words: str) -> None:
    usual = {"num_training_batches": 10, "accumulate_grad_batches": 1, "world_size": 1}
    usual |= {"max_epochs": 3, "max_steps": -1, "estimated_stepping_batches": 30}
    trainer: Any = SimpleNamespace(**{**usual, **changes})
    lines = batch_line(trainer, SimpleNamespace(batch_size=4))  # type: ignore[arg-type]
    line = " ".join(lines.split())
    assert words in line
    assert ("per epoch" in line) is (trainer.num_training_batches == 10)
    assert ("updates" in line) is (trainer.estimated_stepping_batches == 30)
    assert ("epochs" in line or "1 epoch," in line) is (trainer.max_epochs > 0)


def test_a_model_is_told_by_its_parts() -> None:
    vit = ViT(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3)
    total = sum(parameter.numel() for parameter in vit.parameters())
    shape, parameters, flops = model_lines(vit)
    assert "2 blocks of width 16, 2 heads; patches of 4x4, 5 tokens per image" in shape
    assert f"{total:,}: " in parameters
    assert "trained" not in parameters
    assert "per image, forward: " in flops
    vit.blocks.requires_grad_(False)
    left = sum(parameter.numel() for parameter in vit.parameters() if parameter.requires_grad)
    assert list(model_lines(vit))[1].endswith(f"; {left:,} are trained")


@pytest.mark.parametrize(
    ("world", "threads", "words"),
    [
        (1, 1, "cpu with 1 thread"),
        (1, 2, "cpu with 2 threads"),
        (3, 1, "3 processes, each cpu with 1 thread"),
    ],
)
def test_devices_are_counted(
    world: int, threads: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(strategy=strategy, world_size=world)
    assert device_words(trainer) == words
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "H200")
    strategy.root_device = torch.device("cuda")
    assert device_words(trainer) == ("H200" if world == 1 else "3 x H200")
