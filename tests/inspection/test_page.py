"""The page and the sheets: hostile names do no harm, and pictures are those of the images."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import HOSTILE
from PIL import Image

from vitlit.data.splits import Split
from vitlit.images.image_store import MemoryImages
from vitlit.images.preprocess import Preprocess
from vitlit.inspection.findings import Finding, Findings
from vitlit.inspection.inventory import take_inventory
from vitlit.inspection.page import finding_parts
from vitlit.inspection.report import Subject, write_inspection
from vitlit.inspection.sheets import mosaic
from vitlit.inspection.training_batch import TrainingBatch

NAMES = [HOSTILE, "a \"quoted\" & 'single'"]
ABOUT = Preprocess(3, (8, 8), (8, 8), (0.5,) * 3, (0.25,) * 3)


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def pixels(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)


def findings(*, copies: bool = True) -> Findings:
    """Two splits of six and three images; the first of both are equal, with two labels."""
    images = pixels(9)
    if copies:
        images[6] = images[0]
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0, 1])
    part = MemoryImages(images, labels)
    splits = {"train": Split(part, torch.arange(6)), "val": Split(part, torch.arange(6, 9))}
    return Findings(take_inventory(splits, NAMES, 3), None)


def report(folder: Path, **changes: Any) -> str:
    batch = TrainingBatch(pixels(3), ABOUT(pixels(3)), torch.tensor([0, 1, 1]))
    given: dict[str, Any] = {"title": HOSTILE, "of": {"folder": HOSTILE}, "preprocess": ABOUT}
    write_inspection(folder, findings(), Subject(**given | {"batch": batch} | changes))
    return (folder / "index.html").read_text(encoding="utf-8")


def test_names_are_text_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    tags = Reader(report(tmp_path)).tags
    assert {tag for tag, _ in tags} & {"script", "iframe", "object", "form", "base"} == set()
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    sources = [attributes["src"] for tag, attributes in tags if tag == "img"]
    # both images of a pair, a row for each class, both pictures of each example
    assert len(sources) == 2 + 2 + 6
    assert all(source is not None and source.startswith("data:image/png") for source in sources)


def test_a_pair_in_two_splits_with_two_labels_comes_first(tmp_path: Path) -> None:
    page = report(tmp_path)
    first = page.index("exactly the same image in two splits")
    assert first < page.index("two different labels") < page.index("same pixels, in two splits")
    assert "with two labels" in page


def test_what_to_act_on_and_what_to_know_stand_under_their_own_headings(tmp_path: Path) -> None:
    both = [Finding("act", "one <bad> thing"), Finding("know", "one odd thing")]
    parts = list(finding_parts(both))
    assert [re.sub("<[^>]*>", "", part).split("\n")[:2] for part in parts] == [
        ["What to act on", "one &lt;bad&gt; thing"],
        ["What to know", "one odd thing"],
    ]
    nothing, known = finding_parts(both[1:])
    assert "Nothing: no unreadable file" in nothing
    assert "odd" not in nothing
    assert "one odd thing" in known
    assert len(list(finding_parts([]))) == 1
    page = report(tmp_path)
    assert page.index(">What to act on<") < page.index("exactly the same image in two splits")


def test_the_page_says_why_there_is_no_batch(tmp_path: Path) -> None:
    page = report(tmp_path, batch="fit would refuse this data: <no images>")
    assert "There is none: fit would refuse this data: &lt;no images&gt;." in page
    assert not (tmp_path / "batch.png").exists()


def test_mean_and_deviation_are_those_of_the_training_pixels() -> None:
    mean, std = findings().inventory.statistics("train")
    values = pixels(9)[:6].numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, values.mean(axis=(0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(std, values.std(axis=(0, 2, 3)), atol=1e-6)


def test_statistics_far_from_those_in_use_are_told() -> None:
    found = findings(copies=False)
    own = found.inventory.statistics("train")
    assert found.sentences((8, 8), *own) == []
    [one] = found.sentences((8, 8), [value + 0.2 for value in own[0]], own[1])
    assert (one.level, "mean or the standard deviation" in one.text) == ("know", True)


def test_a_mosaic_holds_the_pictures_row_by_row() -> None:
    images = torch.rand(5, 3, 8, 10)
    found = mosaic(images, 3)
    assert found.shape == (3, 8 + 1 + 8, 3 * 10 + 2)
    for place, image in enumerate(images):
        top, left = place // 3 * 9, place % 3 * 11
        assert torch.equal(found[:, top : top + 8, left : left + 10], image)
    assert (found[:, 9:, 22:] == 1).all()


@pytest.mark.draws
def test_the_sheets_are_drawn(tmp_path: Path) -> None:
    report(tmp_path, title="noise")
    for name in ("classes.png", "batch.png"):
        drawn = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        colours = drawn.reshape(-1, 3).astype(int)
        assert (np.ptp(colours, axis=1) > 60).mean() > 0.1  # noise is colourful, paper is not
