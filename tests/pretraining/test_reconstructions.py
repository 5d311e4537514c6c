"""The picture of what a masked autoencoder sees and predicts."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vitlit import ImageData
from vitlit.patches import patchify
from vitlit.pretraining.maskable import MaskableViT
from vitlit.pretraining.masking import masked_places, visible_places
from vitlit.pretraining.reconstructions import GREY_LEVEL, draw, reconstructions

SIZE: dict[str, Any] = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
}


def shown(**changes: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Of three digits: the rows of the picture as patches, their pixels, what is masked."""
    settings = {name: changes.pop(name) for name in ("invert",) if name in changes}
    data, module = ImageData(patch_size=2, **settings), MaskableViT(**SIZE, **changes)
    data.setup("fit")
    pixels = data.splits["val"].images.gather(torch.arange(3))
    places = visible_places(0, 0, torch.arange(3), module.patches, module.visible)
    rows = reconstructions(module, pixels, places, data.preprocess)
    assert module.training
    hidden = masked_places(places, module.patches)
    return patchify(rows, 2), patchify(pixels / 255, 2), hidden


@pytest.mark.parametrize("changes", [{}, {"norm_pixels": False}, {"invert": True}])
def test_the_rows_show_the_image_what_is_visible_and_a_prediction(changes: dict[str, Any]) -> None:
    (image, visible, predicted), pixels, hidden = shown(**changes)
    torch.testing.assert_close(image, pixels, atol=1e-6, rtol=0)
    assert torch.equal(visible[hidden], torch.full_like(visible[hidden], GREY_LEVEL))
    torch.testing.assert_close(visible[~hidden], pixels[~hidden], atol=1e-6, rtol=0)
    torch.testing.assert_close(predicted[~hidden], pixels[~hidden], atol=1e-6, rtol=0)
    assert not torch.allclose(predicted[hidden], pixels[hidden], atol=1e-3)


@pytest.mark.draws
def test_the_picture_has_a_panel_for_each_image_and_row() -> None:
    figure = draw(torch.rand(3, 5, 1, 8, 8), "a title")
    assert len([axes for axes in figure.axes if axes.images]) == 15
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == [
        "image",
        "visible",
        "reconstructed",
    ]
