"""The sheet of the first training batch shows exactly what ``fit`` trains on."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photo_folder import PhotoFolder
from PIL import Image
from torch import Tensor

from vitlit.__main__ import main
from vitlit.data.batch import Batch
from vitlit.data.catalog import Source, source_of
from vitlit.images.preprocess import Preprocess
from vitlit.inspection import report
from vitlit.inspection.sheets import pair_sheet
from vitlit.inspection.training_batch import TrainingBatch, shown_inputs
from vitlit.patches import unpatchify
from vitlit.training.classifier import Classifier

DIGITS = (
    "--config digits.yaml --data.rotation 15 --data.auto_augment randaugment --data.erasing 0.5"
)
DIGITS += ' --data.mixup 0.4 --data.cutmix 1.0 --data.batch_size 16 --data.off_last={"crop":1.0}'
PHOTOS = "photos --data.img_size 16 --data.batch_size 4 --data.memory_gb 0 --model.depth 1"
ONE_STEP = "--trainer.max_steps 1 --trainer.limit_val_batches 0 --trainer.accelerator cpu"


def batch_on_page(page: str) -> list[Tensor]:
    """The pictures of the first training batch on the page of inspect, uint8 ``(C, h, w)``."""
    section = page.partition("The first training batch</h2>")[2].partition("</section>")[0]
    files = [
        base64.b64decode(text) for text in re.findall(r"data:image/png;base64,([^\"]*)", section)
    ]
    arrays = [np.atleast_3d(np.array(Image.open(io.BytesIO(file)))) for file in files]
    return [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]


def as_pictures(batch: Batch, source: Source, size: tuple[int, int]) -> Tensor:
    """What a training step got, without its normalisation: uint8 ``(B, C, H, W)``."""
    side = int((batch.x.shape[-1] / len(source.mean)) ** 0.5)
    images = unpatchify(batch.x, side, size) if batch.x.ndim == 3 else batch.x
    mean, std = (torch.tensor(row).view(1, -1, 1, 1) for row in (source.mean, source.std))
    return ((images * std + mean).clamp(0, 1) * 255).round().byte()


@pytest.mark.parametrize(
    ("words", "name", "size"),
    [
        (DIGITS, "digits", (8, 8)),
        pytest.param(PHOTOS, "folder", (16, 16), marks=pytest.mark.slow),
    ],
)
def test_the_sheet_shows_the_first_batch_of_fit_pixel_by_pixel(
    words: str,
    name: str,
    size: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photo_folder: PhotoFolder,
) -> None:
    monkeypatch.chdir(tmp_path)
    photo_folder()
    trained: list[Batch] = []
    drawn: list[Tensor] = []
    step = Classifier.training_step

    def training_step(self: Classifier, batch: Batch, index: int) -> Any:
        trained.append(batch)
        return step(self, batch, index)

    def draw(upper: Tensor, lower: Tensor, *args: Any, **options: Any) -> Any:
        drawn.append(lower)
        return pair_sheet(upper, lower, *args, **options)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    monkeypatch.setattr(report, "pair_sheet", draw)  # of batch.png
    seed = ["--seed_everything", "3"]
    assert main(["inspect", *words.split(), *seed]) == 0
    assert main(["fit", *words.split(), *seed, *ONE_STEP.split()]) == 0
    expected = as_pictures(trained[0], source_of(name), size)
    pictures = batch_on_page(Path("inspection", "index.html").read_text())
    originals, shown = pictures[::2], torch.stack(pictures[1::2])
    assert torch.equal(shown, expected)
    assert torch.equal((drawn[0] * 255).round().byte(), expected)
    assert len(originals) == len(expected)
    assert not all(map(torch.equal, originals, expected))  # they are augmented


def test_shown_inputs_undo_normalisation_and_inversion() -> None:
    about = Preprocess(3, (4, 4), (4, 4), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), invert=True)
    originals = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    batch = TrainingBatch(originals, about(originals), torch.tensor([0, 1]))
    torch.testing.assert_close(shown_inputs(batch, about), originals / 255, atol=1e-6, rtol=0)
