"""The page of explain in a real browser: what it shows, and that it keeps to itself."""

import re
from collections.abc import Iterator
from pathlib import Path

import browser as chromium
import numpy as np
import pytest
import torch
from browser import Browser
from pages import DEPTH, GRID, HEADS, HOSTILE, all_figures, example, hostile_page, shown, write
from PIL import Image

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.missing() is not None, reason=str(chromium.missing())),
]
MEAN = HEADS  # the place of the mean after the heads of its block
UP, DOWN, LEFT, RIGHT, ESCAPE, TAB = "\ue013", "\ue015", "\ue012", "\ue014", "\ue00c", "\ue004"
PATCHES = GRID[0] * GRID[1]


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with chromium.browser() as found:
        yield found


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def show(window: Browser, page: Path) -> None:
    window.point(0, 0)  # where the mouse was left it would point at something
    window.open(page)
    window.wait_for("window.vitlit && window.vitlit.current()")


def choose(window: Browser, name: str, value: object) -> None:
    """Set a control as a person would: its value and the events of its change."""
    window.run(
        "const control = document.getElementById(arguments[0]); control.value = arguments[1];"
        "for (const kind of ['input', 'change']) control.dispatchEvent(new Event(kind));",
        name,
        str(value),
    )


def point(window: Browser, patch: int, *, click: bool = False) -> None:
    left, top, width, height = window.run(
        "const stage = document.getElementById('stage'); stage.scrollIntoView();"
        "const box = stage.getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height];"
    )
    row, col = divmod(patch, GRID[1])
    x, y = left + (col + 0.5) / GRID[1] * width, top + (row + 0.5) / GRID[0] * height
    window.point(x, y, click=click)


def levels(window: Browser) -> list[int]:
    found: list[int] = window.run("return [...window.vitlit.current().levels]")
    return found


def text(window: Browser, name: str) -> str:
    return str(window.run("return document.getElementById(arguments[0]).textContent", name))


def wanted_levels(row: torch.Tensor, prefix: int = 1) -> list[int]:
    patches = row[prefix:].double()
    return [round(float(15 * share / patches.max())) for share in patches]


def test_a_model_without_a_head_has_no_classes_to_choose(window: Browser, tmp_path: Path) -> None:
    write(tmp_path / "a.html", [example(probabilities=[], relevance=None)])
    show(window, tmp_path / "a.html")
    assert window.run("return document.getElementById('kind').options[2].disabled") is True
    assert window.run("return document.getElementById('classes-title').hidden") is True
    assert text(window, "classes") == ""
    assert "no head" in text(window, "label")
    assert window.complaints() == []


def test_the_page_opens_without_complaint_or_request(window: Browser, tmp_path: Path) -> None:
    write(tmp_path / "a.html", [example()] * 2, figures=all_figures())
    window.requested()  # those of before
    show(window, tmp_path / "a.html")
    assert window.complaints() == []
    asked = window.requested()
    assert (tmp_path / "a.html").as_uri() in asked
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []


def test_the_class_token_in_the_last_block_comes_first(window: Browser, tmp_path: Path) -> None:
    one = example()
    write(tmp_path / "a.html", [one])
    show(window, tmp_path / "a.html")
    row = one.maps[-1].mean(dim=0)[0]
    place, share = int(row[1:].argmax()), float(row[1:].max())
    assert levels(window) == wanted_levels(row)
    assert text(window, "status") == (
        f"The class token attends most to row {place // 3}, column {place % 3}: {100 * share:.1f} %"
    )


def test_without_a_class_token_the_mean_over_patches_comes_first(
    window: Browser, tmp_path: Path
) -> None:
    one = example(prefix=0)
    write(tmp_path / "a.html", [one], prefix=[])
    show(window, tmp_path / "a.html")
    assert levels(window) == wanted_levels(one.maps[-1].mean(dim=(0, 1)), prefix=0)
    assert text(window, "status").startswith("The mean patch attends most to row")


@pytest.mark.parametrize("patch", range(PATCHES))
def test_pointing_at_a_patch_shows_its_row_of_the_chosen_block(
    window: Browser, tmp_path: Path, patch: int
) -> None:
    one = example()
    write(tmp_path / "a.html", [one])
    show(window, tmp_path / "a.html")
    choose(window, "block", 0)
    point(window, patch)
    row = one.maps[0].mean(dim=0)[1 + patch]
    place = int(row[1:].argmax())
    assert levels(window) == wanted_levels(row)
    assert text(window, "status") == (
        f"Patch row {patch // 3}, column {patch % 3} attends most to row {place // 3}, "
        f"column {place % 3}: {100 * float(row[1:].max()):.1f} %"
    )


@pytest.mark.parametrize("head", range(HEADS))
def test_choosing_a_head_shows_its_map(window: Browser, tmp_path: Path, head: int) -> None:
    one = example()
    write(tmp_path / "a.html", [one])
    show(window, tmp_path / "a.html")
    window.run("document.querySelectorAll('#heads button')[arguments[0]].click()", 1 + head)
    assert levels(window) == wanted_levels(one.maps[-1, head, 0])


@pytest.mark.parametrize(("kind", "matrix"), [("rollout", -2), ("relevance", -1)])
def test_rollout_and_relevance_show_their_own_maps(
    window: Browser, tmp_path: Path, kind: str, matrix: int
) -> None:
    one = example()
    write(tmp_path / "a.html", [one])
    show(window, tmp_path / "a.html")
    choose(window, "kind", kind)
    assert levels(window) == wanted_levels(shown(one, 1)[matrix, 0])


def test_choosing_an_image_shows_its_maps(window: Browser, tmp_path: Path) -> None:
    first, second = example(), example(name="second.png")
    write(tmp_path / "a.html", [first, second])
    show(window, tmp_path / "a.html")
    window.run("document.querySelectorAll('#images button')[1].click()")
    window.wait_for("document.getElementById('stage').getAttribute('aria-busy') === 'false'")
    assert levels(window) == wanted_levels(second.maps[-1].mean(dim=0)[0])
    assert "second.png" in window.run("return document.getElementById('stage').ariaLabel")


def test_each_image_has_its_name_its_true_class_and_a_word_where_it_is_wrong(
    window: Browser, tmp_path: Path
) -> None:
    given = [("photos/IMG_20240812_0001.jpeg", "dog"), ("digits val 32", "cat"), ("b.png", None)]
    write(tmp_path / "a.html", [example(name=name, label=label) for name, label in given])
    show(window, tmp_path / "a.html")
    shown_names = window.run(
        "return [...document.querySelectorAll('#images button')]"
        ".map((button) => [...button.children].slice(1).map((part) => part.textContent))"
    )
    assert shown_names == [
        ["IMG_2…1.jpeg", "true: dog", "wrong"],
        ["digits val 32", "true: cat"],
        ["b.png"],
    ]
    assert text(window, "name") == "photos/IMG_20240812_0001.jpeg"
    assert text(window, "label") == "True class: dog. The prediction is wrong."


def test_the_page_says_how_far_a_row_is_from_flat(window: Browser, tmp_path: Path) -> None:
    one = example()
    write(tmp_path / "a.html", [one])
    show(window, tmp_path / "a.html")
    row = one.maps[-1].mean(dim=0)[0, 1:]
    peak = f"the largest is {float(row.max() / row.mean()):.2f} times their mean"
    assert text(window, "aside").endswith(peak)


def test_a_tall_image_fits_the_window(window: Browser, tmp_path: Path) -> None:
    tall = torch.zeros(1, 240, 80, dtype=torch.uint8)
    write(tmp_path / "a.html", [example(image=tall)])
    show(window, tmp_path / "a.html")
    height = "document.getElementById('stage').getBoundingClientRect().height"
    assert window.run(f"return {height} <= innerHeight")


def test_a_patch_that_was_clicked_stays_until_escape(window: Browser, tmp_path: Path) -> None:
    one = example()
    write(tmp_path / "a.html", [one])
    show(window, tmp_path / "a.html")
    point(window, 4, click=True)
    window.point(0, 0)
    assert levels(window) == wanted_levels(one.maps[-1].mean(dim=0)[5])
    window.press(ESCAPE)
    assert levels(window) == wanted_levels(one.maps[-1].mean(dim=0)[0])


def test_a_patch_pointed_at_is_left_with_the_mouse(window: Browser, tmp_path: Path) -> None:
    one = example()
    write(tmp_path / "a.html", [one])
    show(window, tmp_path / "a.html")
    point(window, 4)
    window.point(0, 0)
    assert levels(window) == wanted_levels(one.maps[-1].mean(dim=0)[0])


def test_arrow_keys_go_from_patch_to_patch(window: Browser, tmp_path: Path) -> None:
    write(tmp_path / "a.html", [example()])
    show(window, tmp_path / "a.html")
    point(window, 0, click=True)
    window.point(0, 0)
    places = []
    for key in (LEFT, UP, RIGHT, DOWN, RIGHT, RIGHT, DOWN, LEFT, UP):
        window.press(key)
        places.append(window.run("return window.vitlit.current().row") - 1)
    assert places == [0, 0, 1, 4, 5, 5, 5, 4, 1]


def test_the_overlay_has_the_colour_of_each_level(window: Browser, tmp_path: Path) -> None:
    import matplotlib

    write(tmp_path / "a.html", [example()])
    show(window, tmp_path / "a.html")
    pixels = window.run(
        "const canvas = document.getElementById('overlay');"
        "return [...canvas.getContext('2d').getImageData(0, 0, 3, 2).data];"
    )
    wanted = matplotlib.colormaps["viridis"](np.array(levels(window)) / 15, bytes=True)
    assert np.array(pixels).reshape(PATCHES, 4).tolist() == wanted.tolist()


def test_opacity_fades_the_overlay(window: Browser, tmp_path: Path) -> None:
    write(tmp_path / "a.html", [example()])
    show(window, tmp_path / "a.html")
    choose(window, "opacity", 25)
    style = "return getComputedStyle(document.getElementById('overlay')).opacity"
    assert float(window.run(style)) == 0.25


def test_hostile_names_are_shown_and_never_run(window: Browser, tmp_path: Path) -> None:
    hostile_page(tmp_path / "a.html")
    show(window, tmp_path / "a.html")
    assert window.run("return window.hacked") is None
    assert window.complaints() == []
    assert window.run("return document.querySelector('#images button').title") == HOSTILE
    assert window.run("return document.querySelector('#classes bdi').textContent") == HOSTILE
    assert window.run("return document.title") == HOSTILE


def test_single_heads_that_were_left_out_are_explained(
    window: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitlit.explain.page.MAX_LEVEL_BYTES", 1)
    one = example()
    write(tmp_path / "a.html", [one])
    show(window, tmp_path / "a.html")
    choose(window, "block", 0)
    assert levels(window) == wanted_levels(one.maps[0].mean(dim=0)[0])
    assert window.run("return document.getElementById('heads-note').hidden") is False


def test_everything_that_takes_the_focus_has_a_name(window: Browser, tmp_path: Path) -> None:
    write(tmp_path / "a.html", [example()] * 2, figures=all_figures())
    show(window, tmp_path / "a.html")
    nodes = window.command("Accessibility.getFullAXTree")["nodes"]
    focusable = [
        node
        for node in nodes
        if any(one["name"] == "focusable" for one in node.get("properties", []))
        and node["role"]["value"] != "RootWebArea"
    ]
    assert len(focusable) > 10
    assert [node["role"]["value"] for node in focusable if not node["name"]["value"]] == []


def test_tab_reaches_images_map_and_controls_in_this_order(window: Browser, tmp_path: Path) -> None:
    write(tmp_path / "a.html", [example()])
    show(window, tmp_path / "a.html")
    reached = []
    for _ in range(8):
        window.press(TAB)
        active = "document.activeElement"
        reached.append(window.run(f"return {active}.id || {active}.parentElement.id"))
    assert reached == ["images", "stage", "kind", "block", "head", "from", "opacity", "heads"]


def test_colours_follow_the_scheme_of_the_system(window: Browser, tmp_path: Path) -> None:
    write(tmp_path / "a.html", [example()])
    show(window, tmp_path / "a.html")
    papers = []
    for scheme in ("light", "dark"):
        window.prefer(scheme)
        window.screenshot(tmp_path / f"{scheme}.png")
        with Image.open(tmp_path / f"{scheme}.png") as picture:
            papers.append(picture.convert("L").getpixel((2, 2)))
    assert papers[0] > 240
    assert papers[1] < 40


def test_words_stand_out_from_their_ground_in_both_schemes(window: Browser, tmp_path: Path) -> None:
    write(tmp_path / "a.html", [example()])
    show(window, tmp_path / "a.html")
    for scheme in ("light", "dark"):
        window.prefer(scheme)
        colours = window.run(
            "const [words, ground] = [document.getElementById('help'), document.body];"
            "return [getComputedStyle(words).color, getComputedStyle(ground).backgroundColor];"
        )
        dark, bright = sorted(luminance(colour) for colour in colours)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, level AA


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG defines it."""
    parts = np.array([int(part) / 255 for part in re.findall(r"\d+", colour)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_a_narrow_window_needs_no_scrolling_sideways_and_shows_letters_that_can_be_read(
    window: Browser, tmp_path: Path
) -> None:
    one = example(depth=DEPTH, heads=12)
    write(tmp_path / "a.html", [one] * 4, figures=all_figures())
    show(window, tmp_path / "a.html")
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    window.command("Emulation.setDeviceMetricsOverride", **metrics)
    widest = window.run("return document.documentElement.scrollWidth")
    letters = window.run(
        "const found = document.querySelector('.figures svg');"
        "const shrunk = found.getBoundingClientRect().width / found.viewBox.baseVal.width;"
        "return shrunk * parseFloat(getComputedStyle(found.querySelector('text')).fontSize)"
    )
    window.command("Emulation.clearDeviceMetricsOverride")
    assert widest <= 360
    assert letters >= 9  # pixels high, though the figure shrinks to the width
