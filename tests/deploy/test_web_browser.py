"""The exported page in a real browser: drawing, opening pictures, taking patches away."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as chromium
import numpy as np
import pytest
import torch
from browser import Browser
from PIL import Image
from torch import Tensor, nn

from vitlit.deploy.export import export_model
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.missing() is not None, reason=str(chromium.missing())),
]
RIGHT, DOWN, ESCAPE, SPACE = "\ue014", "\ue015", "\ue00c", " "
GREY: dict[str, Any] = {
    "img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "embed_dim": 24, "depth": 2,
    "num_heads": 3, "global_pool": "avg",
}  # fmt: skip
COLOUR: dict[str, Any] = {**GREY, "img_size": [24, 32], "patch_size": 8, "in_chans": 3}


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with chromium.browser() as found:
        yield found


def make_page(folder: Path, arguments: dict[str, Any], **changes: Any) -> tuple[ViT, Preprocess]:
    torch.manual_seed(0)
    model = ViT(**arguments).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    mean, std = (0.3,) * model.in_chans, (0.3,) * model.in_chans
    preprocess = Preprocess(model.in_chans, model.img_size, model.img_size, mean, std, **changes)
    names = [f"</script> & {i}" for i in range(model.num_classes)]
    export_model(model, preprocess, names, folder / "page", format="web")
    return model, preprocess


def show(window: Browser, folder: Path) -> None:
    window.point(0, 0)  # where the mouse was left it would point at something
    window.open(folder / "page" / "index.html")
    window.wait_for("window.vitlit && window.vitlit.current()")


def place(window: Browser, name: str) -> list[float]:
    found: list[float] = window.run(
        "const box = document.getElementById(arguments[0]).getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height];",
        name,
    )
    return found


def draw(window: Browser, *points: tuple[float, float]) -> None:
    """One stroke with the mouse; points are shares of the paper's width and height."""
    left, top, width, height = place(window, "paper")
    moves = [
        {"type": "pointerMove", "x": round(left + x * width), "y": round(top + y * height),
         "duration": 10}
        for x, y in points
    ]  # fmt: skip
    down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
    actions = [moves[0], down, *moves[1:], up]
    window.call(
        "POST", "/actions", actions=[{"type": "pointer", "id": "mouse", "actions": actions}]
    )


def logits(window: Browser) -> Tensor:
    window.wait_for("window.vitlit.current()")
    return torch.tensor(window.run("return [...window.vitlit.current().logits]"))


def save_paper(window: Browser, file: Path) -> Path:
    """The drawing, as the button of the page saves it."""
    address = window.run("return document.getElementById('paper').toDataURL()")
    file.write_bytes(base64.b64decode(address.partition(",")[2]))
    return file


@torch.no_grad()
@pytest.mark.parametrize("invert", [False, True])
def test_a_drawing_is_classified_as_its_file_is(
    window: Browser, tmp_path: Path, invert: bool
) -> None:
    model, preprocess = make_page(tmp_path, GREY, invert=invert)
    show(window, tmp_path)
    draw(window, (0.25, 0.15), (0.7, 0.15), (0.45, 0.45), (0.75, 0.8), (0.2, 0.85))
    got = logits(window)
    read = preprocess.read(save_paper(window, tmp_path / "drawing.png"))
    assert read.float().std() > 50  # a drawing, and no empty paper
    torch.testing.assert_close(got, model(preprocess(read[None]))[0], rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_picture_that_is_opened_gives_the_logits_of_pytorch(
    window: Browser, tmp_path: Path
) -> None:
    model, preprocess = make_page(tmp_path, COLOUR)
    pixels = np.random.default_rng(0).integers(0, 256, (41, 37, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    show(window, tmp_path)
    found = window.call("POST", "/element", using="css selector", value="#file")
    element = next(iter(found.values()))
    before = window.run("return window.vitlit.answers()")
    window.call("POST", f"/element/{element}/value", text=str(tmp_path / "photo.png"))
    window.wait_for(f"window.vitlit.answers() > {before} && window.vitlit.current()")
    wanted = model(preprocess(preprocess.read(tmp_path / "photo.png")[None]))[0]
    torch.testing.assert_close(logits(window), wanted, rtol=0, atol=1e-3)


@torch.no_grad()
def test_patches_are_taken_away_by_mouse_and_by_keys(window: Browser, tmp_path: Path) -> None:
    model, preprocess = make_page(tmp_path, GREY)
    show(window, tmp_path)
    draw(window, (0.3, 0.1), (0.6, 0.9))
    whole = logits(window)
    read = preprocess.read(save_paper(window, tmp_path / "drawing.png"))
    left, top, width, height = place(window, "stage")
    window.point(left + 0.4 * width, top + 0.1 * height, click=True)  # row 0, column 1
    window.run("document.getElementById('stage').focus()")
    window.press(RIGHT, DOWN, SPACE)  # row 1, column 2
    window.wait_for("window.vitlit.current()")
    assert sorted(window.run("return window.vitlit.current().left")) == [1, 6]
    tokens = model.embed(preprocess(read[None]))
    kept = [patch for patch in range(16) if patch not in (1, 6)]
    wanted = model.head(model.pool(model.norm(model.blocks(tokens[:, kept]))))[0]
    torch.testing.assert_close(logits(window), wanted, rtol=0, atol=1e-3)
    window.press(ESCAPE)
    torch.testing.assert_close(logits(window), whole, rtol=0, atol=0)


def test_the_keyboard_draws(window: Browser, tmp_path: Path) -> None:
    make_page(tmp_path, GREY)
    show(window, tmp_path)
    empty = logits(window)
    window.run("document.getElementById('paper').focus()")
    window.press(SPACE, *[DOWN] * 5, *[RIGHT] * 5, SPACE)
    assert (logits(window) - empty).abs().max() > 0.1
    window.press("\ue017")  # Delete
    torch.testing.assert_close(logits(window), empty, rtol=0, atol=0)


def test_the_page_asks_for_nothing_and_checks_itself(window: Browser, tmp_path: Path) -> None:
    make_page(tmp_path, GREY)
    window.requested()  # those of before
    show(window, tmp_path)
    assert window.complaints() == []
    asked = [url for url in window.requested() if not url.startswith(("data:", "file:", "blob:"))]
    assert asked == []
    assert "PyTorch" in window.run("return document.getElementById('checked').textContent")
    assert window.run("return document.getElementById('notice').hidden") is True
    names = window.run(
        "return [...document.querySelectorAll('#classes bdi')].map((one) => one.textContent)"
    )
    assert names == [f"</script> & {i}" for i in range(10)]


def test_everything_that_takes_the_focus_has_a_name(window: Browser, tmp_path: Path) -> None:
    make_page(tmp_path, GREY)
    show(window, tmp_path)
    nodes = window.command("Accessibility.getFullAXTree")["nodes"]
    focusable = [
        node
        for node in nodes
        if any(one["name"] == "focusable" for one in node.get("properties", []))
        and node["role"]["value"] != "RootWebArea"
    ]
    assert len(focusable) >= 8
    assert [node["role"]["value"] for node in focusable if not node["name"]["value"]] == []


@pytest.mark.parametrize("width", [420, 900, 1400])
def test_no_window_needs_scrolling_sideways(window: Browser, tmp_path: Path, width: int) -> None:
    make_page(tmp_path, GREY)
    show(window, tmp_path)
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    window.command("Emulation.setDeviceMetricsOverride", **metrics)
    widest = window.run("return document.documentElement.scrollWidth")
    window.command("Emulation.clearDeviceMetricsOverride")
    assert widest <= width


def test_colours_follow_the_scheme_of_the_system(window: Browser, tmp_path: Path) -> None:
    make_page(tmp_path, GREY)
    show(window, tmp_path)
    papers = []
    for scheme in ("light", "dark"):
        window.prefer(scheme)
        papers.append(window.run("return getComputedStyle(document.body).backgroundColor"))
    window.prefer("light")
    assert papers == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]
