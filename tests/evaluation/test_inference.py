"""Rows of a whole split, in its order, and averages over mirror images."""

from typing import Any

import pytest
import torch

from vitlit.data.batch import Batch
from vitlit.data.datamodule import PlainImageData
from vitlit.errors import InputError
from vitlit.evaluation.compare import make_runner
from vitlit.evaluation.inference import (
    Collector,
    checked,
    collect,
    evenly_thinned,
    flip_average,
    loader_of,
    mirror,
)
from vitlit.evaluation.scoring import Scoring
from vitlit.features.probe import extractor
from vitlit.model.vit import ViT
from vitlit.patches import patchify

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch_size", [50, 500])
def test_rows_are_those_of_the_split_in_its_order(batch_size: int) -> None:
    data = PlainImageData(patch_size=2, batch_size=batch_size, normalize="none", patchify=False)
    data.setup("test")
    split = data.splits["test"]
    found = collect(data, loader_of(data, split), lambda x: x, CPU).rows()
    expected = split.images.gather(split.members).float() / 255
    torch.testing.assert_close(found.values, expected)
    assert found.labels.tolist() == split.labels.tolist()
    assert found.sample.tolist() == list(range(len(split)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_answers_that_are_no_finite_numbers_are_refused_with_the_first_image(bad: float) -> None:
    data = PlainImageData(patch_size=2, normalize="none", patchify=False)
    data.setup("test")
    split = data.splits["test"]
    rows = collect(data, loader_of(data, split), lambda x: x, CPU).rows()
    assert checked(rows, split, "digits test") is rows
    rows.values[[7, 20], 0, 3] = bad
    message = "infinite for 2 of 359 images, the first is digits test 7;"
    with pytest.raises(InputError, match=message):
        checked(rows, split, "digits test")


def test_a_probe_and_a_comparison_refuse_them() -> None:
    data = PlainImageData(patch_size=2)
    data.setup("test")
    with pytest.raises(InputError, match="infinite for 359 of 359 images"):
        extractor(lambda x: x.flatten(1) * float("inf"), CPU)(data, data.splits["test"])
    model = ViT(img_size=8, patch_size=2, in_chans=1, embed_dim=4, depth=1, num_heads=1)
    torch.nn.init.constant_(model.head.weight, 3e38)
    with pytest.raises(InputError, match=r"infinite for \d+ of 359 images"):
        make_runner(CPU, flip=False)(model, data, "32-true")


def batch(places: list[int], valid: list[bool]) -> Batch:
    rows: Any = torch.tensor(places)
    return Batch(rows, rows * 10, rows, torch.tensor(valid), 0, 0)


def test_rows_of_several_processes_are_put_in_order_without_those_that_fill_up() -> None:
    values = {0: torch.tensor([[0.0], [2.0]]), 1: torch.tensor([[1.0], [9.0]])}
    own, other = Collector(), Collector()
    own.add(values[0], batch([0, 2], [True, True]))
    other.add(values[1], batch([1, 2], [True, False]))
    theirs = iter(torch.cat(column) for column in other._columns)
    found = own.rows(gather=lambda mine: torch.cat([mine, next(theirs)]))
    assert found.values.flatten().tolist() == [0, 1, 2]
    assert found.labels.tolist() == [0, 10, 20]


def test_there_is_nothing_to_write_before_the_first_batch() -> None:
    found = Collector()
    assert not found
    found.add(torch.zeros(1, 2), batch([0], [True]))
    assert found


def test_a_thinned_split_is_spread_over_the_whole() -> None:
    data = PlainImageData(patch_size=2)
    data.setup("validate")
    split = data.splits["val"]
    few = evenly_thinned(split, 10)
    assert len(few) == 10
    assert few.members[[0, -1]].tolist() == split.members[[0, -1]].tolist()
    assert evenly_thinned(split, 1000) is split


def test_the_mirror_image_of_patches_is_that_of_their_image() -> None:
    model = ViT(img_size=[8, 16], patch_size=4, embed_dim=8, depth=1, num_heads=1)
    x = torch.randn(2, 3, 8, 16)
    assert torch.equal(mirror(patchify(x, 4), model), patchify(x.flip(-1), 4))


@torch.no_grad()
def test_a_flip_average_does_not_tell_left_from_right() -> None:
    model = ViT(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1).eval()
    torch.nn.init.normal_(model.head.weight)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 8, 8)
    found = flip_average(model, x, model)
    torch.testing.assert_close(found, (model(x) + model(x.flip(-1))) / 2)
    torch.testing.assert_close(found, flip_average(model, x.flip(-1), model))


def test_scoring_is_of_the_images_alone_unless_told() -> None:
    scoring = Scoring()
    scoring.configure_scoring(flip=True)
    scoring.configure_scoring()
    assert (scoring.flip, scoring.feature) == (False, None)
