"""Figures of an evaluation: what they show and say."""

import pytest
import torch
from confusions import confusion_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitlit.evaluation.calibration import fit_temperature, reliability
from vitlit.evaluation.figures import (
    MAX_CLASSES,
    confusion_matrix,
    picture_sheet,
    reliability_diagram,
)
from vitlit.messages import shorten

pytestmark = pytest.mark.draws


def drawn_in(figure: Figure) -> list[Axes]:
    figure.canvas.draw()
    return [axes for axes in figure.axes if axes.axison]


def test_the_confusion_matrix_writes_its_counts() -> None:
    matrix = torch.tensor([[5, 1], [0, 7]])
    axes = drawn_in(confusion_matrix(confusion_of(matrix), ["cat", "dog"], title="12 images"))[0]
    found = {(*map(int, text.get_position()[::-1]),): text.get_text() for text in axes.texts}
    assert found == {(0, 0): "5", (0, 1): "1", (1, 1): "7"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_a_single_mistake_among_many_images_is_seen() -> None:
    matrix = torch.tensor([[999, 1], [0, 500]])
    figure = confusion_matrix(confusion_of(matrix), ["cat", "dog"], title="1500 images")
    assert figure.get_suptitle().startswith("accuracy 0.9993; 1500 images")
    drawn = drawn_in(figure)[0].images[0]
    colours = drawn.cmap(drawn.norm(drawn.get_array()))
    assert drawn.get_array().mask.tolist() == [[False, False], [True, False]]  # 0 is not drawn
    one, none = drawn.norm(1 / 1000), drawn.norm(0)
    assert one - none > 0.09
    assert abs(colours[0, 1, :3] - colours[0, 0, :3]).max() > 0.4


def test_of_many_classes_it_shows_those_with_the_most_mistakes() -> None:
    matrix = torch.eye(100, dtype=torch.long) * 9
    matrix[70, 80] = 4
    figure = confusion_matrix(confusion_of(matrix), [f"c{i}" for i in range(100)], title="")
    labels = [label.get_text() for label in drawn_in(figure)[0].get_yticklabels()]
    assert len(labels) == MAX_CLASSES
    assert {"c70", "c80"} <= set(labels)
    assert "30 of 100 classes" in figure.get_suptitle()


def test_the_reliability_diagram_draws_bins_with_images() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(200, 3) * 3, torch.randint(3, (200,))
    fitted = fit_temperature(logits, labels)
    before, after = (reliability(logits / scale, labels) for scale in (1, fitted.temperature))
    top = drawn_in(reliability_diagram(before, after, fitted, title=""))[0]
    plain, cooled = top.collections
    for dots, bins in ((plain, before), (cooled, after)):
        has = bins.images > 0
        places = torch.stack([bins.confidence[has], bins.accuracy[has]], dim=1)
        assert dots.get_offsets().data.flatten().tolist() == pytest.approx(
            places.flatten().tolist()
        )
    assert f"{fitted.temperature:.2f}" in cooled.get_label()


def test_a_dot_of_the_reliability_diagram_grows_with_its_images() -> None:
    """Three images in the bin of 1.0, one in that of 0.5: areas from 12 upwards, the largest 72."""
    logits = torch.tensor([[100.0, 0.0]] * 3 + [[0.0, 0.0]])
    bins = reliability(logits, torch.zeros(4, dtype=torch.long))
    top = drawn_in(reliability_diagram(bins, None, None, title=""))[0]
    assert top.collections[0].get_sizes().tolist() == pytest.approx([12 + 60 / 3, 72])


def test_a_sheet_shows_each_picture_under_its_words() -> None:
    words = [f"number {i}" for i in range(8)]
    axes = drawn_in(picture_sheet(torch.rand(8, 3, 4, 6), words, title="eight"))
    assert [one.get_title() for one in axes] == words


def test_words_stay_within_their_picture() -> None:
    long = [
        "true pickup truck of the fire brigade, predicted pickup truck (0.71)\n" + 9 * "name"
    ] * 6
    figure = picture_sheet(torch.rand(6, 1, 8, 8), long, title="six")
    for one in drawn_in(figure):
        title = one.title.get_window_extent()
        assert title.width < figure.bbox.width / 6
        assert "".join(one.get_title().split()) == "".join(long[0].split())  # nothing is cut


def test_long_names_are_cut() -> None:
    assert shorten("automobile", 10) == "automobile"
    assert shorten("pickup_truck", 10) == "picku…ruck"
