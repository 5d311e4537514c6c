"""Labels that all nearest neighbours contradict, and sets in which neighbours say nothing."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from vitlit.inspection.label_check import check_each_class, check_labels, nearest_others


def clusters(apart: float) -> tuple[Tensor, Tensor]:
    """Three classes of 30 images, whose centres are ``apart``."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    centres = apart * torch.eye(16)[:3]
    return centres[labels] + torch.randn(90, 16, generator=generator), labels


def digests(count: int) -> list[bytes]:
    return [bytes([i]) for i in range(count)]


def test_neighbours_are_scikit_learns() -> None:
    features, _ = clusters(3.0)
    search = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features)
    distance, expected = search.kneighbors()  # without the images themselves
    found, similarity = nearest_others(features, 5)
    assert found.tolist() == expected.tolist()
    torch.testing.assert_close(similarity, 1 - torch.from_numpy(distance).float())


def test_only_wrong_labels_are_doubted() -> None:
    features, labels = clusters(8.0)
    assert check_labels(features, labels, digests(90)).doubts == []
    wrong = labels.clone()
    wrong[[4, 31]] = torch.tensor([0, 2])  # classes 1 and 1
    found = check_labels(features, wrong, digests(90))
    assert {(doubt.image, doubt.label) for doubt in found.doubts} == {(4, 1), (31, 1)}
    assert found.checked == 90


def test_nothing_is_doubted_where_neighbours_do_not_tell_the_classes() -> None:
    features, labels = clusters(2.0)
    found = check_labels(features, labels, digests(90))
    assert found.doubts == []
    assert "nearest agree on a class" in found.reason


def test_classes_are_doubted_one_by_one_and_not_those_that_the_features_do_not_show() -> None:
    features, labels = clusters(8.0)
    rare = torch.arange(90) % 17 == 3  # of which neighbours know nothing
    targets = torch.stack([labels == 0, labels != 2, rare], dim=1).to(torch.int8)
    assert check_each_class(features, targets, ["a", "b", "rare"], digests(90)).doubts == []
    wrong = targets.clone()
    wrong[6, 1] = 0  # of cluster 0
    wrong[31, 0] = 1  # of cluster 1
    found = check_each_class(features, wrong, ["a", "b", "rare"], digests(90))
    doubts = {(doubt.image, doubt.label, doubt.has) for doubt in found.doubts}
    assert doubts == {(6, 1, True), (31, 0, False)}
    assert found.reason.endswith("which images have rare")


@pytest.mark.parametrize("copies", [1, 6])
def test_copies_of_an_image_are_no_witnesses(copies: int) -> None:
    features, labels = clusters(8.0)
    features = torch.cat([features, features[:1].expand(copies, -1)])
    labels = torch.cat([labels, torch.full((copies,), 2)])  # image 0 is of class 0
    found = check_labels(features, labels, [*digests(90), *[bytes([0])] * copies])
    assert found.doubts == []


def test_small_classes_are_not_checked() -> None:
    found = check_labels(torch.randn(6, 4), torch.arange(6) % 3, digests(6))
    assert (found.doubts, found.checked) == ([], 0)
    assert "2 images or fewer" in found.reason
