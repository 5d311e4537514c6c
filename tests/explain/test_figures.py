"""Figures: what they show, their words, and that nothing else of matplotlib is touched."""

import ast
from collections.abc import Callable
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pytest
import torch
from history_figure import history_figure
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from vitlit.explain import figures
from vitlit.explain import overview as overview_module
from vitlit.explain.attribution import overlay
from vitlit.explain.figures import (
    attention_distance,
    attention_heads,
    embedding_filters,
    position_grid,
)
from vitlit.explain.overview import PEAK_CAPTION, attention_overview
from vitlit.plotting import FONT_SMALL, FONT_TINY

pytestmark = pytest.mark.draws

HISTORY = {
    "train/loss_epoch": [(1.0, 2.0), (2.0, 1.5)],
    "val/loss": [(1.0, 1.8), (2.0, 1.4)],
    "train/acc": [(1.0, 0.3), (2.0, 0.5)],
    "val/acc": [(1.0, 0.4), (2.0, 0.6)],
    "lr": [(0.1, 1e-3), (0.2, 2e-3), (2.0, 0.0)],
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def overview(*, channels: int = 3, count: int = 3, **changes: Any) -> Figure:
    maps = {"class token": torch.rand(count, 2, 3), "rollout": torch.rand(count, 2, 3)}
    given: dict[str, Any] = {
        "probabilities": torch.eye(4)[:count] * 0.6 + 0.1,
        "class_names": ["ant", "bee", "cat", "dog"],
    }
    return attention_overview(torch.rand(count, channels, 8, 12), maps, **{**given, **changes})


FIGURES: dict[str, Callable[[], Figure]] = {
    "overview": overview,
    "overview of grey images": lambda: overview(channels=1),
    "overview with names": lambda: overview(names=["a" * 99] * 3, labels=[0, 1, -1]),
    "overview of one image": lambda: overview(count=1),
    "heads": lambda: attention_heads(torch.rand(3, 8, 12), torch.rand(12, 2, 3), block=1),
    "one head of a grey image": lambda: attention_heads(
        torch.rand(1, 8, 12), torch.rand(1, 2, 3), block=0
    ),
    "distance": lambda: attention_distance(torch.rand(12, 3) * 50, uniform=30.0),
    "distance in one block": lambda: attention_distance(torch.rand(1, 1)),
    "positions": lambda: position_grid(torch.rand(6, 2, 3)),
    "positions on a tall grid": lambda: position_grid(torch.rand(10, 5, 2)),
    "positions all alike": lambda: position_grid(torch.ones(4, 2, 2)),
    "positions of a large grid": lambda: position_grid(torch.rand(900, 30, 30)),
    "filters": lambda: embedding_filters(torch.randn(28, 3, 4, 4)),
    "filters of grey images": lambda: embedding_filters(torch.randn(4, 1, 2, 2)),
    "no filter": lambda: embedding_filters(torch.randn(0, 1, 2, 2)),
    "heads of a named image": lambda: attention_heads(
        torch.ones(1, 8, 12), torch.rand(3, 2, 3), block=0, name="a/" * 200
    ),
    "history": lambda: history_figure(HISTORY),
    "no history": lambda: history_figure({}),
}


def panels(figure: Figure) -> list[Axes]:
    """Axes that show something, without colour bars, in the order they were drawn."""
    return [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]


def colour_bars(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]


def pixels(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def drawn(figure: Figure) -> np.ndarray:
    file = BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def names(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in panels(figure)]


class Drawing(NamedTuple):
    """A figure, its pixels, and whether all else of matplotlib is as it was before."""

    figure: Figure
    picture: np.ndarray
    settings_kept: bool
    open_figures: list[int]


@cache
def drawing(name: str) -> Drawing:
    """Made once for all tests: drawing takes long."""
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    figure = FIGURES[name]()
    picture = drawn(figure)
    return Drawing(figure, picture, dict(matplotlib.rcParams) == before, pyplot.get_fignums())


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_fits_a_page_and_has_no_words_over_its_edge(name: str) -> None:
    picture = drawing(name).picture
    assert 400 < picture.shape[1] <= 960
    assert picture.shape[0] < 1200
    edges = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
    assert all((edge > 200).all() for edge in edges)


@pytest.mark.parametrize("name", FIGURES)
def test_no_two_panels_and_no_two_titles_overlap(name: str) -> None:
    figure = drawing(name).figure
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
    for i, box in enumerate(boxes):
        shrunk = box.padded(-1)
        assert [other for other in boxes[:i] if shrunk.overlaps(other.padded(-1))] == []


@pytest.mark.parametrize("name", FIGURES)
def test_drawing_leaves_matplotlibs_settings_and_open_figures_alone(name: str) -> None:
    assert drawing(name).settings_kept
    assert drawing(name).open_figures == []


@pytest.mark.parametrize("module", [figures, overview_module])
def test_matplotlib_is_imported_only_where_something_is_drawn(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node for node in top if "matplotlib" in ast.unparse(node)] == []
    assert "pyplot" not in {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}


def words(figure: Figure, size: int) -> list[Text]:
    """Texts of the overview in a size of type, from left to right and down, without the caption."""
    found = [text for text in figure.axes[0].texts if text.get_gid() == str(size)]
    found = [text for text in found if text.get_text() != PEAK_CAPTION]
    return sorted(
        found, key=lambda text: (round(text.get_position()[1], 3), text.get_position()[0])
    )


def titles(figure: Figure) -> list[str]:
    return [text.get_text() for text in words(figure, FONT_SMALL)]


def panel_names(figure: Figure) -> list[str]:
    return [text.get_text() for text in words(figure, FONT_TINY)]


def test_the_overview_names_the_predicted_class_and_its_probability() -> None:
    figure = overview()
    expected = ["predicted ant (0.70)", "predicted bee (0.70)", "predicted cat (0.70)"]
    assert titles(figure)[:3] == expected
    assert [name.split("\n")[0] for name in panel_names(figure)] == [
        "image",
        "class token",
        "rollout",
    ] * 3


def test_the_overview_names_images_and_says_in_words_which_are_wrong() -> None:
    figure = overview(names=["a.png", "b.png", "c.png"], labels=[0, 3, -1])
    assert titles(figure)[:3] == [
        "a.png, true class ant\npredicted ant (0.70), right",
        "b.png, true class dog\npredicted bee (0.70), wrong",
        "c.png\npredicted cat (0.70)",
    ]


def test_each_map_of_the_overview_says_how_far_from_flat_it_is() -> None:
    maps = {"a": torch.tensor([[[1.0, 1.0], [1.0, 5.0]]]), "b": torch.zeros(1, 2, 2)}
    given = {"probabilities": torch.ones(1, 1), "class_names": ["cat"]}
    figure = attention_overview(torch.rand(1, 3, 8, 8), maps, **given)
    assert panel_names(figure) == ["image", "a\npeak 2.50×", "b\nall 0"]


def test_images_have_a_frame_on_white_paper() -> None:
    given = {"probabilities": torch.ones(1, 1), "class_names": ["cat"]}
    figure = attention_overview(torch.ones(1, 3, 8, 8), {}, **given)
    assert drawn(figure)[200:].min() < 200


@pytest.mark.parametrize("channels", [1, 3])
def test_the_overview_shows_each_image_and_its_overlays(channels: int) -> None:
    images, maps = torch.rand(1, channels, 8, 12), torch.rand(1, 2, 3)
    figure = attention_overview(
        images, {"a": maps}, probabilities=torch.ones(1, 1), class_names=["cat"]
    )
    shown = figure.axes[0].images
    for found, expected in zip(shown, (images, overlay(images, maps)), strict=True):
        picture = expected[0].permute(1, 2, 0) if expected.shape[1] == 3 else expected[0, 0]
        np.testing.assert_allclose(found.get_array(), picture.numpy())


@pytest.mark.parametrize(("count", "height", "width"), [(1, 8, 12), (5, 12, 8), (4, 8, 8)])
def test_nothing_in_the_overview_overlaps_and_images_keep_their_shape(
    count: int, height: int, width: int
) -> None:
    long = ["a/" * 99 + "b.png"] * count
    maps = {"last block": torch.rand(count, 2, 2), "for its class": torch.rand(count, 2, 2)}
    figure = attention_overview(
        torch.rand(count, 3, height, width),
        maps,
        probabilities=torch.ones(count, 1),
        class_names=["W" * 60],
        names=long,
        labels=[0] * count,
    )
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [artist.get_window_extent() for artist in (*axes.images, *axes.texts)]
    for i, box in enumerate(boxes):
        assert figure.bbox.containsx(box.x0 + 1), "left of the page"
        assert figure.bbox.containsx(box.x1 - 1), "right of the page"
        assert [other for other in boxes[:i] if box.padded(-1).overlaps(other.padded(-1))] == []
    for image in axes.images:
        box = image.get_window_extent()
        assert box.height / box.width == pytest.approx(height / width)


def test_images_of_other_channels_are_shown_as_their_mean() -> None:
    images = torch.rand(1, 5, 8, 12)
    figure = attention_overview(images, {}, probabilities=torch.ones(1, 1), class_names=["cat"])
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), images[0].mean(dim=0).numpy())


def test_dollar_signs_in_class_names_are_no_formulas() -> None:
    drawn(overview(count=1, class_names=[r"$\oops{$"] * 4))


def test_every_head_has_a_panel_and_all_share_one_scale() -> None:
    maps = torch.rand(12, 2, 3)
    figure = attention_heads(torch.rand(3, 8, 12), maps, block=11, name="cat.png")
    assert figure.get_suptitle() == "attention of the heads of block 11\ncat.png"
    assert names(figure) == ["image", *(f"head {i}" for i in range(12))]
    for axes, head in zip(panels(figure)[1:], maps, strict=True):
        np.testing.assert_array_equal(pixels(axes), head.numpy())
        assert axes.images[0].get_clim() == (0, pytest.approx(maps.max().item()))
    assert [bar.get_ylabel() for bar in colour_bars(figure)] == ["share of attention"]


def test_each_head_is_a_dot_above_its_block() -> None:
    distances = torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])
    axes = panels(attention_distance(distances))[0]
    dots = axes.collections[0].get_offsets().tolist()
    assert dots == [[0, 10], [0, 20], [1, 30], [1, 40], [2, 50], [2, 60]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("block", "mean attention distance (pixels)")


def test_the_distance_of_uniform_attention_is_a_line_with_a_name() -> None:
    axes = panels(attention_distance(torch.rand(2, 2), uniform=30.0))[0]
    assert list(axes.lines[0].get_ydata()) == [30, 30]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["uniform attention"]
    assert axes.get_ylim()[1] > 30


def tile(picture: np.ndarray, grid: tuple[int, int], row: int, col: int) -> np.ndarray:
    """One tile of a mosaic with one line between tiles."""
    height, width = ((s + 1) // n for s, n in zip(picture.shape, grid, strict=True))
    return picture[row * height : (row + 1) * height - 1, col * width : (col + 1) * width - 1]


def test_each_patch_has_its_similarities_at_its_place() -> None:
    similarity = torch.rand(6, 2, 3)
    picture = pixels(panels(position_grid(similarity))[0])
    for row in range(2):
        for col in range(3):
            expected = similarity[3 * row + col].numpy().repeat(4, axis=0).repeat(4, axis=1)
            np.testing.assert_array_equal(tile(picture, (2, 3), row, col), expected)


def test_large_grids_show_every_third_patch_and_say_which() -> None:
    similarity = torch.rand(900, 30, 30)
    axes = panels(position_grid(similarity))[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == [*map(str, range(0, 30, 3))]
    found = tile(pixels(axes), (10, 10), 2, 1)  # row 6, column 3
    np.testing.assert_array_equal(found, similarity[6 * 30 + 3].numpy())


@pytest.mark.parametrize("shape", [(2, 3), (5, 2)])
def test_patches_are_square_on_rectangular_grids(shape: tuple[int, int]) -> None:
    rows, cols = shape
    figure = position_grid(torch.rand(rows * cols, rows, cols))
    figure.draw_without_rendering()
    axes = panels(figure)[0]
    box, size = axes.get_window_extent(), pixels(axes).shape
    assert box.width / size[1] == pytest.approx(box.height / size[0], rel=1e-3)


def test_the_scale_of_similarities_ends_at_one() -> None:
    similarity = torch.rand(6, 2, 3) - 0.5
    figure = position_grid(similarity)
    limits = panels(figure)[0].images[0].get_clim()
    assert limits == (pytest.approx(similarity.min().item()), 1)
    assert [bar.get_ylabel() for bar in colour_bars(figure)] == ["cosine similarity"]


def test_the_position_figure_names_rows_and_columns() -> None:
    figure = position_grid(torch.rand(6, 2, 3))
    axes = panels(figure)[0]
    assert figure.get_suptitle() == "similarity of position embeddings, by patch"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("column", "row")


@pytest.mark.parametrize(("count", "rows"), [(28, 4), (9, 2), (3, 1)])
def test_filters_are_in_rows_of_seven(count: int, rows: int) -> None:
    shown = panels(embedding_filters(torch.randn(count, 3, 4, 4)))
    assert len(shown) == count
    assert len({axes.get_subplotspec().rowspan.start for axes in shown}) == rows


@pytest.mark.parametrize("size", [0.01, 100.0])
def test_each_filter_has_its_own_contrast_with_zero_in_the_middle(size: float) -> None:
    picture = torch.tensor([[0.0, 1.0], [-0.5, 0.25]])
    shown = panels(embedding_filters(size * picture[None, None]))[0]
    np.testing.assert_allclose(pixels(shown), [[0.5, 1.0], [0.25, 0.625]], atol=1e-6)


def test_the_history_has_a_panel_for_loss_accuracy_and_learning_rate() -> None:
    figure = history_figure(HISTORY)
    assert names(figure) == ["loss", "top-1 accuracy", "learning rate"]
    assert [axes.get_xlabel() for axes in panels(figure)] == ["epoch"] * 3


def test_training_and_validation_are_lines_of_their_own_colour() -> None:
    for axes in panels(history_figure(HISTORY))[:2]:
        lines = {line.get_label(): to_hex(line.get_color()).upper() for line in axes.lines}
        assert lines == {"train": "#0072B2", "val": "#D55E00"}
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train", "val"]


def test_the_lines_are_the_logged_numbers_in_the_order_of_epochs() -> None:
    mixed = {**HISTORY, "val/acc": [(2.0, 0.6), (1.0, 0.4)]}
    line = panels(history_figure(mixed))[1].lines[1]
    assert line.get_xydata().tolist() == [[1.0, 0.4], [2.0, 0.6]]


@pytest.mark.parametrize("epochs", [range(1), range(2), range(300), range(37, 49), [200]])
def test_epochs_are_counted_in_whole_numbers(epochs: list[int]) -> None:
    history = {name: [(epoch, 0.5 + epoch) for epoch in epochs] for name in HISTORY}
    figure = history_figure(history)
    figure.draw_without_rendering()
    for axes in panels(figure):
        labels = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(tick == round(tick) for tick in axes.get_xticks())
        assert not any(a.overlaps(b) for a, b in pairwise(labels))


def test_the_best_epoch_is_marked_in_every_panel() -> None:
    for axes in panels(history_figure(HISTORY, best=2)):
        [mark] = [line for line in axes.lines if line.get_label() == "best: epoch 2"]
        assert list(mark.get_xdata()) == [2, 2]
        assert "best: epoch 2" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_what_was_not_logged_is_left_out() -> None:
    figure = history_figure({"train/acc": [(1.0, 0.3)], "val/acc": []})
    assert names(figure) == ["top-1 accuracy"]
    assert [line.get_label() for line in panels(figure)[0].lines] == ["train"]


def test_tensors_of_a_graph_can_be_drawn() -> None:
    def wanted(*shape: int) -> Tensor:
        return torch.rand(*shape, requires_grad=True)

    drawn(overview(count=1, probabilities=wanted(1, 4)))
    drawn(attention_heads(wanted(3, 8, 12), wanted(2, 2, 3), block=0))
    drawn(attention_distance(wanted(2, 2)))
    drawn(position_grid(wanted(6, 2, 3)))
    drawn(embedding_filters(wanted(4, 3, 2, 2)))
