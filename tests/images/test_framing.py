"""How image files are fitted to a model's input, against closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitlit.errors import InputError
from vitlit.images.framing import Framing, padded_with_mean
from vitlit.images.image_io import read_image


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """20 rows, 40 columns: black on the left, white on the right."""
    pixels = np.zeros((20, 40), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / "halves.png")
    return tmp_path / "halves.png"


def read(path: Path, **how: object) -> torch.Tensor:
    return read_image(path, in_chans=1, size=(10, 10), framing=Framing(**how))[0]  # type: ignore[arg-type]


def test_squash_keeps_both_ends_of_a_wide_image(halves: Path) -> None:
    found = read(halves, fit="squash", interpolation="bilinear")
    assert (found[:, :4] == 0).all()
    assert (found[:, 6:] == 255).all()


def test_letterbox_pads_above_and_below_a_wide_image(halves: Path) -> None:
    found = read(halves, fit="letterbox", fill=(77,))
    assert (found[:2] == 77).all()  # 2 rows of padding, 5 of the image, 3 of padding
    assert (found[-3:] == 77).all()
    assert (found[2:7, :4] == 0).all()
    assert (found[2:7, 6:] == 255).all()


def test_a_crop_fraction_shows_the_centre_larger(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (100, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    half = read(tmp_path / "ramp.png", crop_fraction=0.5).float()[0]
    # the middle 50 of 100 columns, whose greys are 50 to 148, in 10 columns of 5
    expected = torch.arange(10) * 10 + 54.0
    torch.testing.assert_close(half, expected, rtol=0, atol=1)


def test_padding_is_zero_once_normalised() -> None:
    framing = padded_with_mean(Framing("letterbox"), (0.5, 0.2, 1.5))
    assert framing.fill == (128, 51, 255)
    assert padded_with_mean(Framing("squash"), (0.5,)) == Framing("squash")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_fraction": 0.0}, "crop_fraction 0.0 is not from 0.1 to 1"),
        ({"crop_fraction": float("nan")}, "crop_fraction nan"),
        ({"fit": "stretch"}, "unknown fit 'stretch'; known: cover, squash, letterbox"),
        ({"interpolation": "nearest"}, "unknown interpolation 'nearest'; known: bicubic"),
    ],
)
def test_what_no_image_can_be_fitted_by_is_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Framing(**settings).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("framing", "words"),
    [
        (Framing(), "scaled to cover 9x18, bicubic and antialiased, then the centre cut out"),
        (Framing("squash"), "stretched to 9x18, bicubic and antialiased"),
        (
            Framing("letterbox", 0.9, "bilinear", (1, 2, 3)),
            "scaled to fit into 10x20, bilinear and antialiased, then padded with the colour "
            "1, 2, 3, then the centre cut out",
        ),
    ],
    ids=str,
)
def test_the_words_say_what_is_done(framing: Framing, words: str) -> None:
    assert framing.describe((9, 18)) == words
