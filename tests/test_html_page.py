"""What pages share: pictures in the HTML hold their pixels, and facts may be any text."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vitlit.html_page import facts_part, image_element, image_uri, picture_uri


def pixels_of(html: str) -> NDArray[np.uint8]:
    found = re.search(r'data:image/\w+;base64,([^"]+)', html)
    assert found is not None
    with Image.open(BytesIO(base64.b64decode(found[1]))) as image:
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_addresses_hold_the_pixels_exactly(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    assert (pixels_of(image_uri(pixels)).reshape(pixels.shape) == pixels).all()


def test_an_image_of_other_channels_is_their_mean_in_grey() -> None:
    image = torch.tensor([0, 30], dtype=torch.uint8).view(2, 1, 1).expand(2, 4, 6)
    assert (pixels_of(picture_uri(image)) == np.full((4, 6), 15)).all()


@pytest.mark.parametrize(
    ("width", "start"),
    [
        (128, '<img alt="" class="square" src="data:image/png;'),
        (129, '<img alt="" src="data:image/jpeg;'),
    ],
)
def test_small_images_are_shown_in_squares_without_loss(width: int, start: str) -> None:
    assert image_element(torch.rand(3, 8, width)).startswith(start)


def test_facts_may_hold_any_text() -> None:
    assert facts_part({"<b>": "a & b"}) == (
        "<div><dt>&lt;b&gt;</dt><dd><bdi>a &amp; b</bdi></dd></div>"
    )
