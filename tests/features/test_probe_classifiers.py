"""Neighbours and linear classifiers, against scikit-learn's."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from vitlit.features.probe_classifiers import Neighbours, choose_linear, fit_linear, nearest, vote
from vitlit.features.probe_multi_label import neighbour_shares


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features ``(count, 6)`` of four classes that overlap, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    centres = torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
    return centres[labels] + torch.randn(count, 6, generator=generator), labels


@pytest.mark.parametrize("k", [1, 4, 15])
def test_votes_of_neighbours_are_scikit_learns(k: int) -> None:
    (train, labels), (test, _) = clusters(300, 0), clusters(100, 1)
    theirs = KNeighborsClassifier(k, metric="cosine").fit(train, labels)
    found = nearest(test, train, k)
    assert vote(found, labels, 4).tolist() == theirs.predict(test).tolist()
    distance, index = theirs.kneighbors(test)
    assert found.row.tolist() == index.tolist()
    torch.testing.assert_close(1 - found.similarity, torch.tensor(distance).float())


def test_there_are_never_more_neighbours_than_rows() -> None:
    train, _ = clusters(3, 0)
    assert nearest(train, train, 9).row.shape == (3, 3)


def test_of_equally_many_votes_the_first_class_wins() -> None:
    near = Neighbours(torch.ones(1, 4), torch.tensor([[0, 1, 2, 3]]))
    assert vote(near, torch.tensor([2, 1, 2, 1]), 3).tolist() == [1]


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_the_linear_classifier_is_scikit_learns(c: float) -> None:
    (train, labels), (test, _) = clusters(300, 0), clusters(100, 1)
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(train.double(), labels)
    found = fit_linear(train, labels, 4, c=c)
    torch.testing.assert_close(found.weight, torch.tensor(theirs.coef_), rtol=1e-3, atol=1e-4)
    assert found.logits(test).argmax(dim=1).tolist() == theirs.predict(test).tolist()


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_targets_of_several_classes_get_scikit_learns_regression_of_each(c: float) -> None:
    (train, labels), (test, _) = clusters(300, 0), clusters(100, 1)
    targets = torch.stack([labels == 0, labels % 2 == 0, labels < 3], dim=1).to(torch.int8)
    targets[::7, 2] = 0  # none of the classes
    one = LogisticRegression(C=c, tol=1e-8, max_iter=5000)
    theirs = OneVsRestClassifier(one).fit(train.double(), targets)
    found = fit_linear(train, targets, 3, c=c)
    expected = torch.tensor(theirs.decision_function(test.double()))
    torch.testing.assert_close(found.logits(test), expected, rtol=1e-3, atol=1e-4)


def test_shares_of_neighbours_are_scikit_learns_probabilities() -> None:
    (train, labels), (test, _) = clusters(300, 0), clusters(100, 1)
    targets = torch.stack([labels == 0, labels % 2 == 0], dim=1).to(torch.int8)
    theirs = KNeighborsClassifier(9, metric="cosine").fit(train, targets).predict_proba(test)
    found = neighbour_shares(nearest(test, train, 9), targets)
    for k in range(2):
        torch.testing.assert_close(found[:, k], torch.tensor(theirs[k][:, 1]).float())


def test_rows_in_parts_give_the_same_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = clusters(300, 0)
    whole = fit_linear(train, labels, 4, c=1.0)
    monkeypatch.setattr("vitlit.features.probe_classifiers.FIT_ROWS", 70)
    torch.testing.assert_close(fit_linear(train, labels, 4, c=1.0).weight, whole.weight)


def test_the_strength_is_the_one_with_the_most_validation_images_right() -> None:
    train, val = clusters(60, 0), clusters(200, 1)
    chosen, c = choose_linear(train, val, 4)
    right = {
        each: int((fit_linear(*train, 4, c=each).logits(val[0]).argmax(dim=1) == val[1]).sum())
        for each in (0.01, 0.1, 1.0, 10.0, 100.0)
    }
    assert right[c] == max(right.values())
    assert int((chosen.logits(val[0]).argmax(dim=1) == val[1]).sum()) == right[c]


def test_of_strengths_that_are_equally_good_the_strongest_penalty_wins() -> None:
    labels = torch.arange(40) % 4
    apart = 10 * torch.eye(4)[labels]  # every C has all of them right
    assert choose_linear((apart, labels), (apart, labels), 4)[1] == 0.01
