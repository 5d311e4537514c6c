"""The page of explain as a file: its bytes, its size, and that names in it are only names."""

import base64
import json
import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import DEPTH, HEADS, HOSTILE, NAMES, all_figures, example, hostile_page, shown, write

from vitlit.errors import InputError
from vitlit.explain.page import pack_rows, prefix_names
from vitlit.model.vit import ViT


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def unpack(page: str, number: int, *, patches: int, prefix: int) -> dict[str, np.ndarray]:
    """The rows of an image, read as the module's docstring says, slowly."""
    text = re.search(rf'id="maps-{number}">([^<]*)<', page)
    assert text is not None
    content = zlib.decompress(base64.b64decode(text[1]))
    size = 4 + 2 * prefix + (patches + 1) // 2
    assert len(content) % (size * (prefix + patches + 1)) == 0
    rows: dict[str, list[Any]] = {"top": [], "best": [], "prefix": [], "levels": []}
    for start in range(0, len(content), size):
        row = content[start : start + size]
        numbers = [int.from_bytes(row[2 * i : 2 * i + 2], "little") for i in range(2 + prefix)]
        halves = [half for byte in row[4 + 2 * prefix :] for half in (byte >> 4, byte & 15)]
        rows["top"].append(numbers[0] / 65535)
        rows["best"].append(numbers[1])
        rows["prefix"].append([share / 65535 for share in numbers[2:]])
        rows["levels"].append(halves[:patches])
    by_matrix = (len(content) // (size * (prefix + patches + 1)), prefix + patches + 1)
    return {
        name: np.array(values).reshape(*by_matrix, *np.shape(values)[1:])
        for name, values in rows.items()
    }


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("grid", [(2, 3), (3, 3)])
def test_levels_are_right_to_half_a_step_of_their_rows_largest(
    tmp_path: Path, prefix: int, grid: tuple[int, int]
) -> None:
    one = example(prefix=prefix, grid=grid)
    page = write(tmp_path / "a.html", [one], grid=grid, prefix=["token"] * prefix)
    found = unpack(page, 0, patches=grid[0] * grid[1], prefix=prefix)
    wanted = shown(one, prefix)[..., prefix:].numpy()
    largest = wanted.max(axis=-1, keepdims=True)
    assert (np.abs(found["levels"] / 15 * largest - wanted) <= largest / 30 + 1e-5).all()


def test_largest_shares_and_those_of_prefix_tokens_are_exact(tmp_path: Path) -> None:
    one = example(prefix=2)
    found = unpack(write(tmp_path / "a.html", [one], prefix=["a", "b"]), 0, patches=6, prefix=2)
    wanted = shown(one, 2).numpy()
    np.testing.assert_allclose(found["top"], wanted[..., 2:].max(axis=-1), atol=1e-5)
    np.testing.assert_allclose(found["prefix"], wanted[..., :2], atol=1e-5)


def test_the_patch_attended_to_most_is_named_where_levels_cannot_tell(tmp_path: Path) -> None:
    rows = torch.full((1, 4, 4), 0.25)
    rows[..., 2] += 1e-4
    packed = pack_rows(rows, 0)
    assert packed[0, 0, 4:].tolist() == [0xFF, 0xFF]  # all of level 15
    assert packed[0, 0, 2:4].tolist() == [2, 0]


def test_a_row_that_looks_at_no_patch_becomes_zeros() -> None:
    rows = torch.zeros(1, 3, 3)
    rows[..., 0] = 1  # all of it to the class token
    assert pack_rows(rows, 1)[0, 0].tolist() == [0, 0, 0, 0, 255, 255, 0]


def test_four_images_of_vit_b_16_take_at_most_12_megabytes(tmp_path: Path) -> None:
    maps = torch.randn(12, 12, 197, 197).softmax(dim=-1)
    noise = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)
    one = example(image=noise, maps=maps, rollout=maps[0, 0], relevance=maps[0, 1] + torch.eye(197))
    path = tmp_path / "large.html"
    write(path, [one], grid=(14, 14))
    assert 4 * path.stat().st_size <= 12e6


def test_single_heads_are_left_out_of_a_page_that_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitlit.explain.page.MAX_LEVEL_BYTES", 2 * DEPTH * HEADS * 7 * 7 / 2 - 1)
    one = example()
    found = unpack(write(tmp_path / "a.html", [one, one]), 1, patches=6, prefix=1)
    wanted = torch.cat([shown(one, 1)[HEADS :: HEADS + 1], shown(one, 1)[-2:]])
    np.testing.assert_allclose(found["top"], wanted[..., 1:].amax(dim=-1).numpy(), atol=1e-5)


class Words(HTMLParser):
    """Tags, and what a browser would run or show."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_cannot_become_html(tmp_path: Path) -> None:
    plain = Words(write(tmp_path / "plain.html", [example()] * len(NAMES)))
    hostile = Words(hostile_page(tmp_path / "hostile.html"))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [attributes for _, attributes in hostile.tags] == [each for _, each in plain.tags]
    assert hostile.text.count(HOSTILE) == 4  # the title twice, the fact's name and value


def test_names_come_back_unharmed_from_the_page(tmp_path: Path) -> None:
    page = hostile_page(tmp_path / "a.html")
    text = re.search(r'id="data">(.*?)</script>', page)
    assert text is not None
    described = json.loads(text[1])
    assert [one["name"] for one in described["examples"]] == NAMES
    assert [one["probabilities"][0][0] for one in described["examples"]] == NAMES
    assert described["prefix"] == [HOSTILE]


def test_the_page_names_no_address_but_data(tmp_path: Path) -> None:
    page = write(tmp_path / "a.html", [example()], figures=all_figures())
    assert re.findall(r"https?:|url\(|@import|\bfetch\(|XMLHttp|WebSocket", page) == []
    used = [value for _, given in Words(page).tags for name, value in given.items()
            if name in ("src", "href")]  # fmt: skip
    assert used
    assert all(value is not None and value.startswith("data:") for value in used)


def test_the_page_forbids_itself_the_network(tmp_path: Path) -> None:
    policies = [
        given["content"]
        for tag, given in Words(write(tmp_path / "a.html", [example()])).tags
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert str(policies[0]).startswith("default-src 'none'; img-src data:;")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"maps": torch.full((2, 3, 7, 7), torch.nan)}, "cat.png is not finite"),
        ({"probabilities": [("cat", float("nan"))]}, "cat.png is not finite"),
        ({"maps": torch.rand(2, 3, 8, 8)}, "2x3 patches are expected"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        write(tmp_path / "a.html", [example(**changes)])


def test_a_page_needs_an_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        write(tmp_path / "a.html", [])


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, ["class token"]),
        ({"reg_tokens": 2}, ["class token", "register 0", "register 1"]),
        ({"global_pool": "avg", "reg_tokens": 1}, ["register 0"]),
        ({"global_pool": "avg"}, []),
    ],
)
def test_prefix_tokens_have_names(arguments: dict[str, Any], names: list[str]) -> None:
    model = ViT(
        img_size=4, patch_size=2, num_classes=2, embed_dim=8, depth=1, num_heads=1, **arguments
    )
    assert prefix_names(model) == names


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on PATH")
def test_the_script_reads_the_rows_that_were_packed(tmp_path: Path) -> None:
    page = write(tmp_path / "a.html", [example(prefix=2)], prefix=["a", "b"])
    text = re.search(r'id="maps-0">([^<]*)<', page)
    assert text is not None
    script = files("vitlit.explain").joinpath("page.js").read_text(encoding="utf-8")
    call = f"""
    unpack({json.dumps(text[1])}).then((view) => {{
      const row = readRow(view, 2, 6, 5, 3);
      console.log(JSON.stringify({{ ...row, levels: [...row.levels] }}));
    }});"""
    command = ["node", "--input-type=commonjs"]
    done = subprocess.run(command, input=script + call, text=True, capture_output=True, timeout=60)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    wanted = unpack(page, 0, patches=6, prefix=2)
    names = {"levels": "levels", "top": "top", "best": "best", "prefix": "others"}
    for name, theirs in names.items():
        np.testing.assert_allclose(found[theirs], wanted[name][5, 3])
