"""Our tar files are those of Python's own module."""

import io
import tarfile

import pytest

from vitlit.data.shards.tar_writer import TarWriter, tar_header


@pytest.mark.parametrize("size", [0, 1, 511, 512, 2**29])
@pytest.mark.parametrize("name", ["a.png", "é/1.jpg", "x" * 100, "y" * 101, "z/" * 90 + "1.cls"])
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    about = tarfile.TarInfo(name)
    about.size = size
    assert tar_header(name, size) == about.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_files_are_those_of_tarfile(count: int) -> None:
    members = [(f"{i}é.png" if i == 3 else f"{i}.png", bytes([i]) * 300 * i) for i in range(count)]
    expected, found = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    writer = TarWriter(found)
    places = [writer.add(name, content) for name, content in members]
    assert writer.finish() == len(found.getvalue())
    assert found.getvalue() == expected.getvalue()
    for place, (_, content) in zip(places, members, strict=True):
        assert found.getvalue()[place : place + len(content)] == content
