"""Figures of the HTML page: their pixels, their dots, their numbers."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vitlit.explain.page_figures import distance_figure, filter_figure, similarity_figure

pytestmark = pytest.mark.draws


def pixels_of(html: str) -> NDArray[np.uint8]:
    found = re.search(r'data:image/\w+;base64,([^"]+)', html)
    assert found is not None
    with Image.open(BytesIO(base64.b64decode(found[1]))) as image:
        return np.asarray(image)


def test_a_tile_of_the_similarity_figure_is_brightest_at_its_own_place() -> None:
    table = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    pixels = pixels_of(similarity_figure((table @ table.T).view(6, 2, 3))).astype(int)
    scale = 4  # of 3 columns, so that tiles are 12 pixels wide
    for row in range(2):
        for col in range(3):
            y = row * (2 * scale + 1) + row * scale
            x = col * (3 * scale + 1) + col * scale
            assert pixels[y, x].tolist() == [253, 231, 36, 255]  # the end of viridis


def test_gaps_between_tiles_are_transparent() -> None:
    pixels = pixels_of(similarity_figure(torch.rand(6, 2, 3)))
    assert pixels.shape == (2 * 9 - 1, 3 * 13 - 1, 4)
    assert (pixels[8, :, 3] == 0).all()
    assert (pixels[:, 12, 3] == 0).all()
    assert (pixels[..., 3] == 255).sum() == 6 * 8 * 12


def test_large_grids_show_every_second_patch() -> None:
    html = similarity_figure(torch.rand(225, 15, 15))
    assert "A grid of 8x8 tiles" in html


def test_zero_is_mid_grey_in_filters_and_the_largest_value_white() -> None:
    filters = torch.zeros(1, 1, 12, 12)
    filters[0, 0, 3, 4] = 0.2
    pixels = pixels_of(filter_figure(filters))
    assert pixels[3, 4].tolist() == [255, 255, 255, 255]
    assert pixels[0, 0].tolist() == [128, 128, 128, 255]


def test_there_is_a_tile_for_each_filter() -> None:
    pixels = pixels_of(filter_figure(torch.randn(9, 3, 12, 12)))
    assert (pixels[..., 3] == 255).sum() == 9 * 12 * 12


def test_dots_of_the_distance_plot_stand_at_their_distances() -> None:
    distances = torch.tensor([[10.0, 0.0], [5.0, 2.5]])
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', distance_figure(distances))]
    zero, per_pixel = heights[1], (heights[1] - heights[0]) / 10
    np.testing.assert_allclose(
        [(zero - y) / per_pixel for y in heights], distances.flatten(), atol=0.05
    )


def test_the_distance_table_holds_every_number() -> None:
    html = distance_figure(torch.tensor([[10.0, 0.0], [5.04, 2.5]]))
    assert re.findall(r"<td>([\d.]+)</td>", html) == ["10.0", "0.0", "5.0", "2.5"]


def test_uniform_attention_is_a_line_at_its_distance() -> None:
    html = distance_figure(torch.tensor([[7.0]]), uniform=7.0)
    line = re.search(r'class="uniform"[^>]*y1="([\d.]+)"', html)
    assert line is not None
    assert re.findall(r'cy="([\d.]+)"', html) == [line[1]]


def test_without_filters_that_differ_there_is_a_sentence() -> None:
    assert "no two filters" in filter_figure(torch.zeros(0, 3, 3, 3))
