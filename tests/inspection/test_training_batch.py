"""The sheet of the first training batch shows exactly what ``fit`` trains on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from photo_folder import PhotoFolder

from vitlit.__main__ import main
from vitlit.commands import inspect_images
from vitlit.data.batch import Batch
from vitlit.images.preprocess import Preprocess
from vitlit.inspection.training_batch import (
    TrainingBatch,
    first_batch,
    shown_inputs,
    target_words,
)
from vitlit.patches import patchify
from vitlit.tasks.multi_label import MultiLabel
from vitlit.tasks.regression import Regression
from vitlit.training.classifier import Classifier

DIGITS = (
    "--config digits.yaml --data.rotation 15 --data.auto_augment randaugment --data.erasing 0.5"
)
DIGITS += ' --data.mixup 0.4 --data.cutmix 1.0 --data.batch_size 16 --data.off_last={"crop":1.0}'
PHOTOS = "photos --data.img_size 16 --data.batch_size 4 --data.memory_gb 0 --model.depth 1"
ONE_STEP = "--trainer.max_steps 1 --trainer.limit_val_batches 0 --trainer.accelerator cpu"


@pytest.mark.parametrize("words", [DIGITS, pytest.param(PHOTOS, marks=pytest.mark.slow)])
def test_the_batch_equals_the_first_one_of_fit_pixel_by_pixel(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo_folder: PhotoFolder
) -> None:
    monkeypatch.chdir(tmp_path)
    photo_folder()
    trained: list[Batch] = []
    inspected: list[TrainingBatch] = []
    step = Classifier.training_step

    def training_step(self: Classifier, batch: Batch, index: int) -> Any:
        trained.append(batch)
        return step(self, batch, index)

    def keep(*args: Any) -> TrainingBatch:
        inspected.append(first_batch(*args))
        return inspected[0]

    monkeypatch.setattr(Classifier, "training_step", training_step)
    monkeypatch.setattr(inspect_images, "first_batch", keep)
    seed = ["--seed_everything", "3"]
    assert main(["inspect", *words.split(), *seed]) == 0
    assert main(["fit", *words.split(), *seed, *ONE_STEP.split()]) == 0
    found, expected = inspected[0], trained[0]
    inputs = found.inputs
    if expected.x.ndim == 3:  # patches
        size = int((expected.x.shape[2] / inputs.shape[1]) ** 0.5)
        inputs = patchify(inputs, size)
    assert torch.equal(inputs, expected.x)
    assert torch.equal(found.targets, expected.y)
    assert len(found.originals) == len(found.inputs)


def test_shown_inputs_undo_normalisation_and_inversion() -> None:
    about = Preprocess(3, (4, 4), (4, 4), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), invert=True)
    originals = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    batch = TrainingBatch(originals, about(originals), torch.tensor([0, 1]))
    torch.testing.assert_close(shown_inputs(batch, about), originals / 255, atol=1e-6, rtol=0)


def test_targets_are_named_with_their_shares() -> None:
    names = ["ant", "bee", "cow"]
    assert target_words(torch.tensor([2, 0]), names) == ["cow", "ant"]
    soft = torch.tensor([[0.0, 1.0, 0.0], [0.3, 0.0, 0.7]])
    assert target_words(soft, names) == ["bee", "cow 0.70, ant 0.30"]
    several = torch.tensor([[1, 0, 1], [0, 0, 0]], dtype=torch.int8)
    assert target_words(several, names, MultiLabel) == ["ant; cow", "none"]
    mixed = torch.tensor([[0.3, 1.0, 0.0]])
    assert target_words(mixed, names, MultiLabel) == ["ant 0.30; bee"]
    assert target_words(torch.tensor([[2.5]]), ["age"], Regression) == ["2.5"]
