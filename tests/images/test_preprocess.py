"""Preprocessing against torchvision and Pillow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from vitlit.errors import InputError
from vitlit.images.preprocess import Preprocess, match_channels

Pixels = NDArray[np.uint8]

NOISE: Pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)

BATCH = torch.from_numpy(NOISE).permute(2, 0, 1)[None].contiguous()

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def preprocess(
    in_chans: int = 3, img_size: tuple[int, int] = (6, 8), *, plain: bool = False, **rest: bool
) -> Preprocess:
    mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else (MEAN, STD)
    return Preprocess(in_chans, (6, 8), img_size, mean[:in_chans], std[:in_chans], **rest)


def test_normalising_matches_torchvision() -> None:
    steps = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(MEAN), list(STD))]
    torch.testing.assert_close(preprocess()(BATCH), v2.Compose(steps)(BATCH), rtol=0, atol=2e-6)


def test_inversion_mirrors_pixels_about_one_half_before_normalising() -> None:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    mirrored = tuple(1 - value for value in MEAN)
    found = Preprocess(3, (6, 8), (6, 8), mirrored, STD, invert=True)(BATCH)
    expected = ((1 - BATCH / 255) - (1 - mean)) / std
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(3, 4), (12, 16), (5, 11), (6, 4)])
def test_resizing_matches_pillow_bilinear(size: tuple[int, int]) -> None:
    found = preprocess(img_size=size, plain=True)(BATCH)[0]
    for plane, channel in zip(found, NOISE.transpose(2, 0, 1), strict=True):
        image = Image.fromarray(channel.astype(np.float32))
        expected = np.array(image.resize(size[::-1], Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(plane, expected, atol=1e-5)


def test_preprocessing_leaves_the_batch_as_it_was() -> None:
    batch = BATCH.clone()
    preprocess()(batch)
    assert torch.equal(batch, BATCH)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_files_are_decoded_at_the_source_size_in_the_models_channels(
    tmp_path: Path, in_chans: int
) -> None:
    Image.fromarray(NOISE).resize((40, 30)).save(tmp_path / "x.png")
    found = preprocess(in_chans, img_size=(12, 12)).read(str(tmp_path / "x.png"))
    assert found.shape == (in_chans, 6, 8)


def test_grey_becomes_colour_by_repetition() -> None:
    assert torch.equal(match_channels(BATCH[:, :1], 3), BATCH[:, [0, 0, 0]])


def test_colour_becomes_grey_as_pillow_does_it() -> None:
    expected = torch.from_numpy(np.array(Image.fromarray(NOISE).convert("L")))
    grey = match_channels(BATCH, 1)
    torch.testing.assert_close(grey[0, 0], expected, rtol=0, atol=1)


def test_grey_is_rounded_to_the_nearest_level() -> None:
    luma = torch.from_numpy(NOISE @ np.array([0.299, 0.587, 0.114]))
    error = (match_channels(BATCH, 1)[0, 0] - luma).abs().max()
    assert float(error) <= 0.5 + 1e-4


def test_channels_that_fit_are_untouched() -> None:
    assert match_channels(BATCH, 3) is BATCH


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (BATCH / 255, "the images are torch.float32"),  # would be scaled once more
        (BATCH[0], r"torch.uint8 \(3, 6, 8\); preprocess takes torch.uint8 \(B, C, h, w\)"),
        (BATCH[:, [0, 1, 2, 0]], r"\(1, 4, 6, 8\).*1 or 3 channels"),
    ],
)
def test_what_is_no_batch_of_uint8_is_refused(images: torch.Tensor, words: str) -> None:
    before = images.clone()
    with pytest.raises(InputError, match=words):
        preprocess()(images)
    assert torch.equal(images, before)
