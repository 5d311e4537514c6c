"""The page of a test report: its numbers, its pictures, and that names cannot do harm."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import browser as chromium
import numpy as np
import pytest
import torch
from confusions import confusion_of
from pages import HOSTILE, NAMES
from PIL import Image

from vitlit.evaluation.calibration import Reliability
from vitlit.evaluation.report_page import MAX_CLASS_ROWS, Mistake, PageContent, write_report_page
from vitlit.html_page import PAGE_STYLE

SCORES = {"images": 40, "acc": 0.9, "acc_interval": [0.77, 0.96], "balanced_acc": 0.88}
SCORES |= {"f1": 0.87, "loss": 0.31, "ece": 0.05}
MATRIX = torch.tensor([[18, 2], [1, 19]])


class Reader(HTMLParser):
    """Elements of a page, and the texts of its table cells row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.rows.append([])  # what follows belongs to no row

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def mistake(size: tuple[int, int] = (8, 12), channels: int = 3, **changes: Any) -> Mistake:
    found = Mistake(torch.rand(channels, *size), "cats/1.png", "cat", "dog", 0.75)
    return found._replace(**changes)


def content(names: tuple[str, ...] = ("cat", "dog"), **changes: Any) -> PageContent:
    classes = {
        name: {"images": 20, "recall": 0.9, "precision": 0.8, "f1": 0.85, "predicted": 19}
        for name in names
    }
    of = {"dataset": "folder", "split": "test", "weights": "a.ckpt"}
    made = PageContent(
        title="Test of 40 images",
        metrics={"scores": SCORES, "classes": classes, "of": of, "note": ""},
        class_names=names,
        confusion=confusion_of(MATRIX),
        kept=torch.arange(2),
        mistakes=[mistake()],
        mistake_count=3,
        calibration="calibration error 0.0500",
        curves=[Reliability(torch.tensor([0.5, 0.9]), torch.tensor([0.25, 1.0]), torch.ones(2))],
    )
    return made._replace(**changes)


def written(folder: Path, made: PageContent) -> str:
    write_report_page(folder / "index.html", made)
    return (folder / "index.html").read_text(encoding="utf-8")


def test_the_page_has_the_scores_and_counts(tmp_path: Path) -> None:
    page = written(tmp_path, content())
    assert '<p class="big">0.9000</p>' in page
    assert "from 0.7700 to 0.9600" in page
    rows = Reader(page).rows
    assert rows[:3] == [["", "cat", "dog"], ["cat", "18", "2"], ["dog", "1", "19"]]
    assert ["cat", "20", "0.900", "", "0.800", "0.850"] in rows
    assert "The 1 most confident of 3 mistakes" in page
    words = re.sub("<[^>]*>", "", page)
    assert "true cat, predicted dog (0.75)cats/1.png" in words


def test_a_single_mistake_is_seen_in_the_matrix(tmp_path: Path) -> None:
    page = written(tmp_path, content(confusion=confusion_of(torch.tensor([[999, 1], [0, 50]]))))
    assert 'class="wrong" style="--share:10%"' in page  # the cube root of 0.001
    assert page.count('class="wrong"') == 1


@pytest.mark.parametrize("size", [(8, 12), (150, 100)])
def test_pictures_of_mistakes_are_in_the_page(size: tuple[int, int], tmp_path: Path) -> None:
    one = mistake(size, image=torch.linspace(0, 1, 3 * size[0] * size[1]).view(3, *size))
    tags = Reader(written(tmp_path, content(mistakes=[one]))).tags
    [source] = [found["src"] for tag, found in tags if tag == "img"]
    assert source is not None
    with Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
        pixels = np.asarray(picture)
    wanted = (one.image * 255).permute(1, 2, 0).numpy()
    # squares are kept exactly, photographs as JPEG
    assert abs(pixels - wanted).max() <= (0.51 if size == (8, 12) else 12)


def test_hostile_names_are_words_alone(tmp_path: Path) -> None:
    made = content((HOSTILE, NAMES[1]), title=HOSTILE, calibration=HOSTILE)
    one = mistake(file=HOSTILE + NAMES[3], true=HOSTILE, predicted=HOSTILE)
    about = dict.fromkeys(("dataset", "split", "weights"), HOSTILE)
    metrics = {**made.metrics, "of": about, "note": HOSTILE}
    tags = Reader(written(tmp_path, made._replace(mistakes=[one], metrics=metrics))).tags
    assert [found for tag, found in tags if tag == "script" or "onerror" in found] == []
    sources = [found[name] for _, found in tags for name in ("src", "href") if name in found]
    assert all(str(source).startswith("data:") for source in sources)


def test_a_perfect_test_has_no_mistakes(tmp_path: Path) -> None:
    assert "every image was classified correctly" in written(
        tmp_path, content(mistakes=[], mistake_count=0)
    )


def test_of_many_classes_the_worst_are_listed(tmp_path: Path) -> None:
    made = content(tuple(f"c{i}" for i in range(300)))
    made.metrics["classes"]["c250"]["recall"] = 0.1
    page = written(tmp_path, made)
    assert f"The {MAX_CLASS_ROWS} of 300 classes" in page
    assert [row[0] for row in Reader(page).rows if len(row) == 6][1] == "c250"
    assert "2 of 300 classes, those with the most mistakes" in page


def test_dots_of_calibration_are_where_their_bins_are(tmp_path: Path) -> None:
    tags = Reader(written(tmp_path, content())).tags
    dots = [found for tag, found in tags if tag == "circle"]
    places = [float(str(one[name])) for one in dots for name in ("cx", "cy")]
    assert places == pytest.approx([40 + 150, 8 + 225, 40 + 270, 8])


def test_its_colours_are_those_of_every_page(tmp_path: Path) -> None:
    page = written(tmp_path, content())
    assert f"<style>\n{PAGE_STYLE}" in page
    assert page.count("--paper:") == 2  # light and dark, once each


@pytest.mark.browser
@pytest.mark.skipif(chromium.missing() is not None, reason=str(chromium.missing()))
@pytest.mark.parametrize("width", [420, 1400])
def test_the_page_is_as_wide_as_the_window(width: int, tmp_path: Path) -> None:
    count = 30
    names = tuple(f"a class {i} of a long name" for i in range(count))
    made = content(
        names, confusion=confusion_of(torch.eye(count).long() * 9), kept=torch.arange(count)
    )
    written(tmp_path, made._replace(mistakes=[mistake(file="long" * 60 + ".png")] * 7))
    with chromium.browser() as window:
        window.open(tmp_path / "index.html")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
        window.command("Emulation.setDeviceMetricsOverride", **size)
        assert window.run("return document.documentElement.scrollWidth") <= width
        assert window.run("return [...document.images].every(one => one.naturalWidth > 0)")
