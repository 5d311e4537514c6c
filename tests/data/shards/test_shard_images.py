"""Images of shards: those of the folder, in pixels, names and hashes, wherever they lie."""

import http.server
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from photo_folder import PhotoFolder
from shard_sets import HOW, opened, pixels_by_name, png, shard, write_foreign, write_tar

from vitlit.data.image_folder import scan_class_folders
from vitlit.data.shards.places import place_of, place_text
from vitlit.data.split_record import file_hashes
from vitlit.data.stratify import path_hashes
from vitlit.errors import InputError


def test_images_of_shards_are_those_of_the_folder(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    root = photo_folder(count=7)
    whole = scan_class_folders(root, 2, **HOW)
    images = opened(shard(root, tmp_path / "s", "--images=4"), names=["cat", "dog"])
    assert len(images.places) == 4
    expected, found = pixels_by_name(whole), pixels_by_name(images)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    classes = [Path(path).parts[-2] for path in images.paths]
    assert [["cat", "dog"][label] for label in images.labels.tolist()] == classes


def test_crops_of_shards_are_those_of_the_folder(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder()
    whole, images = scan_class_folders(root, 2, **HOW), opened(shard(root, tmp_path / "s"))
    inside = [Path(path).parts[-2:] for path in whole.paths]
    members = torch.tensor([inside.index(Path(path).parts[-2:]) for path in images.paths])
    draws = torch.rand(8, 22, generator=torch.Generator().manual_seed(0))
    how: Any = {"draws": draws, "scale": (0.2, 1.0), "ratio": (0.75, 1.3)}
    assert torch.equal(
        images.gather_crops(torch.arange(8), **how), whole.gather_crops(members, **how)
    )


@pytest.mark.parametrize("layout", ["flat", "train"])
def test_hashes_are_those_of_the_folder(
    photo_folder: PhotoFolder, tmp_path: Path, layout: str
) -> None:
    root = photo_folder(layout)
    part = "all" if layout == "flat" else layout
    images = opened(shard(root, tmp_path / "s"), part)
    start = root if part == "all" else root / part
    paths = [str(start / Path(*Path(path).parts[-2:])) for path in images.paths]
    assert images.name_hashes().tolist() == path_hashes(paths, root).tolist()
    assert images.file_hashes.tolist() == file_hashes(paths).tolist()


def test_any_order_and_repeats_give_the_same_images(tmp_path: Path) -> None:
    images = opened(write_foreign(tmp_path / "s"))
    rows = images.gather(torch.arange(10))
    order = torch.tensor([9, 0, 3, 3, 7, 1, 0])
    assert torch.equal(images.gather(order), rows[order])


def test_an_image_that_cannot_be_read_is_listed(tmp_path: Path) -> None:
    members = {"1.png": png(), "1.cls": b"0", "2.png": png()[:90], "2.cls": b"1", "3.png": b""}
    images = opened(write_tar(tmp_path / "s" / "a.tar", {**members, "3.cls": b"1"}).parent)
    assert [(file.place, file.reason) for file in images.bad] == [(1, "truncated"), (2, "empty")]
    assert images.bad[0].path.endswith("a.tar/2.png")
    assert [file.place for file in images.read(torch.arange(3))[1]] == [1, 2]


def test_a_shard_that_changes_under_its_index_is_refused(tmp_path: Path) -> None:
    place = write_foreign(tmp_path / "s")
    images = opened(place)
    content = bytearray((place / "set-001.tar").read_bytes())
    content[int(images.offset[6]) - 400] ^= 1  # in the header of one image
    (place / "set-001.tar").write_bytes(content)
    images.gather(torch.tensor([5, 7]))
    with pytest.raises(InputError, match=r"set-001\.tar has no image at byte [\d,]+, where its"):
        images.gather(torch.tensor([6]))
    (place / "set-001.tar").write_bytes(content[:3000])
    with pytest.raises(InputError, match="has changed, or is damaged"):
        images.gather(torch.tensor([9]))


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A server of files that sends parts of them, as web servers do; Python's own does not."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Range', '')}")
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        file = Path(self.translate_path(self.path))
        if found is None or not file.is_file():
            super().do_GET()
            return
        content = file.read_bytes()
        stop = int(found[2]) + 1 if found[2] else len(content)
        part = content[int(found[1]) : stop]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {found[1]}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """Serves tmp_path; gives its address."""
    servers: list[Any] = []

    def start(kind: type = Ranges) -> str:
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(kind, directory=str(tmp_path))
        )
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_set_on_the_web_is_read_by_ranges(
    photo_folder: PhotoFolder, tmp_path: Path, serve: Any
) -> None:
    near = opened(shard(photo_folder(), tmp_path / "s", "--images=3"))
    place = place_of(f"{serve()}/s")
    far = opened(place)
    assert torch.equal(far.gather(torch.arange(8)), near.gather(torch.arange(8)))
    assert place_text(place).startswith("http://127.0.0.1")
    assert [path.replace(place_text(place), str(tmp_path / "s")) for path in far.paths] == [
        *near.paths
    ]
    tars = [line for line in Ranges.asked if ".tar " in line]
    assert tars
    assert all(" bytes=" in line for line in tars)  # never a whole shard


def test_shards_of_others_on_the_web_are_read_once_for_their_index(
    tmp_path: Path, serve: Any
) -> None:
    near = opened(write_foreign(tmp_path / "s"))
    pattern = place_of(f"{serve()}/s/set-{{000..001}}.tar")
    far = opened(pattern)
    assert torch.equal(far.gather(torch.arange(10)), near.gather(torch.arange(10)))
    Ranges.asked.clear()
    opened(pattern)
    assert [line for line in Ranges.asked if ".tar " in line] == []  # the index was kept


def test_a_server_without_ranges_is_refused(
    photo_folder: PhotoFolder, tmp_path: Path, serve: Any
) -> None:
    shard(photo_folder(), tmp_path / "s")

    class Whole(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    far = opened(place_of(f"{serve(Whole)}/s"))
    with pytest.raises(InputError, match="sends whole files where parts are asked for"):
        far.gather(torch.arange(2))


def test_a_header_with_digits_that_are_not_octal_is_none(tmp_path: Path) -> None:
    place = write_foreign(tmp_path / "s")
    images = opened(place)
    content = bytearray((place / "set-001.tar").read_bytes())
    header = int(images.offset[6]) - 512
    content[header + 148 : header + 156] = b"9" * 8
    (place / "set-001.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"set-001\.tar has no image at byte"):
        images.gather(torch.tensor([6]))
