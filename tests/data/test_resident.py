"""Pixels held on a device: the batches are those of the loader that sends pixels."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch

from vitlit import ImageData
from vitlit.data import resident
from vitlit.data.batch import Batch
from vitlit.data.resident import ResidentPixels, RowSplit
from vitlit.data.splits import Split
from vitlit.images.image_store import BadFile, FileImages, MemoryImages

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


def some_images(bad: list[BadFile] | None = None) -> MemoryImages:
    pixels = torch.randint(256, (9, 3, 4, 4), dtype=torch.uint8)
    return MemoryImages(pixels, torch.arange(9 + len(bad or [])), bad or [])


class Seen(pl.Callback):
    """The batches of a training and its validation, as the steps got them."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Batch, *rest: Any) -> None:
        self.batches.append(batch)

    def on_validation_batch_start(self, *args: Any) -> None:
        self.batches.append(args[2])


class Nothing(pl.LightningModule):
    automatic_optimization = False

    def training_step(self, batch: Batch, index: int) -> None: ...
    def validation_step(self, batch: Batch, index: int) -> None: ...
    def configure_optimizers(self) -> None: ...


def batches_of_a_fit() -> list[Batch]:
    seen = Seen()
    data = ImageData(batch_size=256, crop_padding=1, auto_augment="randaugment", patch_size=2)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=[seen],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
    )
    trainer.fit(Nothing(), data)
    return seen.batches


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
def test_a_fit_gets_the_same_batches_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches_of_a_fit()
    gathered: list[int] = []

    def rows(self: RowSplit, order: Any) -> torch.Tensor:
        gathered.append(len(order.indices))
        return self.images.rows(self.members[order.indices])

    monkeypatch.setattr(resident, "fits", lambda images, device: True)
    monkeypatch.setattr(RowSplit, "_gather", rows)
    found = batches_of_a_fit()
    assert len(gathered) == len(found) == len(expected) > 4  # every batch was one of rows
    for one, other in zip(found, expected, strict=True):
        assert all(map(torch.equal, one[:4], other[:4]))


def test_files_that_cannot_be_read_move_the_rows_of_those_behind_them() -> None:
    images = some_images([BadFile(2, "b.png", "empty")])
    indices = torch.tensor([0, 1, 3, 9])
    assert images.rows(indices).tolist() == [0, 1, 2, 8]
    assert torch.equal(images.pixels[images.rows(indices)], images.gather(indices))


def test_splits_that_share_images_share_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "fits", lambda images, device: True)
    trainer: Any = mock.Mock()
    trainer.strategy.root_device = torch.device("meta")
    held, images = ResidentPixels(), some_images()
    splits = [Split(images, torch.arange(4)), Split(images, torch.arange(4, 9))]
    assert [type(held.hold(split, trainer)) for split in splits] == [RowSplit, RowSplit]
    assert len(held._held) == 1


@pytest.mark.parametrize(
    ("device", "free", "answer"), [(GPU, 4320, True), (GPU, 4319, False), (CPU, 10**9, False)]
)
def test_a_tenth_of_the_memory_of_a_gpu_may_hold_images(
    device: torch.device, free: int, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    assert resident.fits(some_images(), device) is answer  # of 9 * 48 = 432 bytes


def test_images_in_files_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    images = FileImages(["a.png"], torch.zeros(1), in_chans=3, size=(4, 4))
    assert not resident.fits(images, GPU)
