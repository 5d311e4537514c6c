"""The folder that explain writes, and what it is made from."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitlit.errors import InputError
from vitlit.explain.attribution import attention_maps, cls_map, patch_map, rollout
from vitlit.explain.explanation import explain_images
from vitlit.explain.findings import (
    MAX_IMAGES,
    MAX_PAIRS,
    Subjects,
    check_count,
    class_overview,
    explain_image,
    named,
)
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT
from vitlit.plotting import name_line, new_figure
from vitlit.tasks.known import make_task

NAMES = ["ant", "bee", "<cat>"]


def small(**changes: Any) -> ViT:
    torch.manual_seed(0)
    size = {"img_size": [8, 12], "patch_size": 4, "in_chans": 3, "num_classes": 3}
    model = ViT(**{**size, "embed_dim": 12, "depth": 2, "num_heads": 3, **changes}).eval()
    if model.num_classes:
        torch.nn.init.normal_(model.head.weight)
    return model


def preprocess(in_chans: int = 3) -> Preprocess:
    statistics: Any = {"mean": (0.4,) * in_chans, "std": (0.3,) * in_chans}
    return Preprocess(in_chans=in_chans, source_size=(8, 12), img_size=(8, 12), **statistics)


def subjects(count: int = 2, in_chans: int = 3) -> Subjects:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, in_chans, 8, 12), generator=generator).byte()
    return Subjects([f"{i}.png" for i in range(count)], pixels, torch.zeros(count).long())


@pytest.mark.parametrize("count", [0, MAX_IMAGES + 1])
def test_too_many_images_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=rf"takes 1 to {MAX_IMAGES} images, not {count}"):
        check_count(count)


def test_a_model_of_no_finite_numbers_is_refused() -> None:
    model = small()
    torch.nn.init.constant_(model.head.bias, torch.nan)
    with pytest.raises(InputError, match="its weights are damaged"):
        explain_image(model, subjects().pixels[0], preprocess(), "mean")


@pytest.mark.parametrize("invert", [False, True])
def test_an_image_is_shown_as_its_file_looks(invert: bool) -> None:
    one = subjects().pixels[0]
    shown = explain_image(small(), one, replace(preprocess(), invert=invert), "mean").shown
    torch.testing.assert_close(shown, one / 255)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_maps_are_those_of_interpret(pool: Any) -> None:
    model, one = small(global_pool=pool), subjects().pixels[0]
    found = explain_image(model, one, preprocess(), "mean")
    maps, logits = attention_maps(model, preprocess()(one[None]))
    place: Any = {"grid": (2, 3), "prefix": model.num_prefix_tokens, "pool": pool}
    torch.testing.assert_close(found.attention, maps[:, 0])
    torch.testing.assert_close(found.cls_map, cls_map(maps, **place)[0])
    flow = rollout(maps, prefix=model.num_prefix_tokens)
    torch.testing.assert_close(found.rollout, patch_map(flow, **place)[0])
    torch.testing.assert_close(found.probabilities, logits[0].softmax(dim=0))


@pytest.mark.parametrize("pool", ["avg", "seq"])
def test_relevance_is_without_what_each_patch_says_of_itself(pool: Any) -> None:
    model = small(global_pool=pool)
    found = explain_image(model, subjects().pixels[0], preprocess(), "mean")
    shares = torch.full((6,), 1 / 6) if found.shares is None else found.shares
    expected = torch.zeros(6)
    for i in range(6):
        for j in range(6):
            expected[j] += shares[i] * (found.relevant[i, j] - float(i == j))
    torch.testing.assert_close(found.relevance.flatten(), expected, atol=1e-6, rtol=1e-4)


FILES = {"overview.png", "heads.png", "distance.png", "filters.png", "arrays.npz", "index.html"}


@pytest.mark.draws
@pytest.mark.parametrize(
    ("changes", "positions"),
    [({}, True), ({"global_pool": "avg", "in_chans": 1}, True), ({"pos_embed": "none"}, False)],
)
def test_the_folder_holds_figures_and_arrays(
    tmp_path: Path, changes: dict[str, Any], positions: bool
) -> None:
    channels = changes.get("in_chans", 3)
    images = subjects(2, channels)
    explain_images(small(**changes), images, preprocess(channels), NAMES, tmp_path)
    extra = {"positions.png"} if positions else set()
    assert {path.name for path in tmp_path.iterdir()} == FILES | extra
    with np.load(tmp_path / "arrays.npz") as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
    expected: dict[str, tuple[int, ...]] = {
        "attention": (2, 2, 3, 2, 3),
        "rollout": (2, 2, 3),
        "cls_map": (2, 2, 3),
        "relevance": (2, 2, 3),
        "probabilities": (2, 3),
        "distance": (2, 3),
        "filters": shapes["filters"],
        "names": (2,),
        "class_names": (3,),
    }
    assert shapes == expected | ({"similarity": (6, 2, 3)} if positions else {})


@pytest.fixture
def headless(tmp_path: Path) -> Path:
    """What is written of a model without a head."""
    explain_images(small(num_classes=0), subjects(), preprocess(), NAMES, tmp_path)
    return tmp_path


def test_a_model_without_a_head_is_explained_but_for_classes(headless: Path) -> None:
    assert {path.name for path in headless.iterdir()} == FILES | {"positions.png"}
    with np.load(headless / "arrays.npz") as arrays:
        found = set(arrays.files)
    assert {"attention", "rollout", "cls_map", "distance", "filters"} < found
    assert not {"relevance", "probabilities", "class_names"} & found


def test_the_rollout_needs_no_head() -> None:
    one = subjects().pixels[0]
    model, without = small(), small(num_classes=0)
    without.load_state_dict(model.state_dict(), strict=False)
    wanted, found = (explain_image(vit, one, preprocess(), "mean") for vit in (model, without))
    torch.testing.assert_close(found.rollout, wanted.rollout)
    assert found.relevance is None
    assert found.probabilities is None


def test_the_model_stays_as_it_was(tmp_path: Path) -> None:
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain_images(model, subjects(), preprocess(), NAMES, tmp_path)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def page_data(folder: Path) -> Any:
    """What the script of the page reads, of its first image."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])["examples"][0]


@pytest.mark.parametrize(("labels", "is_right"), [([0, 1, 0], True), ([1, 1, 0], False)])
def test_the_class_that_is_given_has_the_map_and_the_name_though_another_is_more_probable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[int], is_right: bool
) -> None:
    named: list[int] = []
    monkeypatch.setattr(
        "vitlit.explain.explanation.attention_overview",
        lambda *_, **about: named.extend(about["named"]) or new_figure(1),
    )
    model, task = small(), make_task({"task": "multi_label", "thresholds": [0.7, 0.3, 0.9]})
    shown = replace(subjects(1), labels=torch.tensor([labels]))

    def answer(x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.6, 0.5, 0.1]]).logit()

    explain_images(model, shown, preprocess(), NAMES, tmp_path, answer=answer, task=task)
    example = page_data(tmp_path)
    assert [name for name, _ in example["probabilities"]] == ["bee", "ant", "<cat>"]
    assert named == [1]
    assert (example["given"] == example["label"]) == is_right


def test_the_name_of_a_number_may_hold_a_slash() -> None:
    shown = named(subjects(1), ["speed km/h 23.4, true 22"])
    line = name_line(shown.names[0], None, 1000, 8)
    assert line.startswith("0.png: speed km")
    assert line.endswith("h 23.4, true 22")


def test_of_many_classes_the_overview_shows_the_surest_of_each_image(tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(40)]
    about, task = subjects(), make_task({"task": "multi_label", "thresholds": [0.0] * 40})
    model = small(num_classes=40)
    found = [explain_image(model, one, preprocess(), "mean", None, task) for one in about.pixels]
    figure = class_overview(about, found, names)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert f"{MAX_PAIRS} of 80 pairs of an image and a class, the surest" in "\n".join(texts)
    for i, one in enumerate(found):
        assert one.classes is not None
        title = [text for text in texts if text.startswith(f"{i}.png")]
        assert len(title) == MAX_PAIRS // 2
        shown = {text.split()[-2] for text in title}
        assert shown == {names[k] for k in one.classes[: MAX_PAIRS // 2].tolist()}
    figure.savefig(tmp_path / "classes.png")
    few = [one._replace(classes=one.classes[:3]) for one in found if one.classes is not None]
    texts = [text.get_text() for text in class_overview(about, few, names).axes[0].texts]
    assert not [text for text in texts if "pairs" in text]
