"""What is read of a tar file, and what is not."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
from shard_sets import png, write_tar
from webdataset.tariterators import base_plus_ext

from vitlit.data.shards.tar_scan import Sample, decode_name, encode_name, scan_tar, split_key
from vitlit.errors import InputError


def scan(path: Path) -> list[Sample]:
    with path.open("rb") as file:
        return list(scan_tar(file, path.name, path.stat().st_size))


@pytest.mark.parametrize(
    "name", ["a.jpg", "cat/é 1.2.PNG", "50%.png", "%2E.x.gif", "a/b.c/d.jpg", "%2E%00/1.jpg"]
)
def test_a_name_survives_its_way_through_a_shard(name: str) -> None:
    key, ending = split_key(encode_name(name))
    assert decode_name(encode_name(name)) == decode_name(encode_name(name, 2)) == name
    assert split_key(encode_name(name, 2))[0] not in (key, split_key(encode_name(name, 1))[0])
    assert "." not in key.rpartition("/")[2]
    assert name.lower().endswith(ending)


@pytest.mark.parametrize("name", ["a.jpg", "a/b.seg.png", "a.b/c.CLS", "./a.jpg", "a/.b.jpg", "x"])
def test_keys_are_those_of_webdataset(name: str) -> None:
    names = base_plus_ext(name)
    assert split_key(name) == ("", "") if names[0] is None else (names[0], names[1].lower())


def test_the_bytes_of_an_image_are_where_it_says(tmp_path: Path) -> None:
    long = "x" * 150  # more than a plain header holds
    members = {"a/1.png": png(1), "a/1.cls": b"7\n", f"{long}.png": png(2), f"{long}.cls": b"x"}
    path = write_tar(tmp_path / "a.tar", members)
    found = scan(path)
    assert [(one.name, one.label) for one in found] == [("a/1.png", "7"), (f"{long}.png", "x")]
    content = path.read_bytes()
    for one in found:
        assert content[one.offset : one.offset + one.size] == members[one.name] == one.content


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        ({"1.json": b'{"label": 3}', "1.png": png()}, ["3"]),
        ({"1.png": png(), "1.json": b'{"class": "dog", "x": 1}', "1.txt": b"a dog"}, ["dog"]),
        ({"a/1.png": png(), "a/1.jpg": png(), "b/1.png": png()}, ["a", "a", "b"]),
        ({"1.seg.png": png(), "1.png": png(), "1.cls": b"2"}, ["2"]),
        ({"1.png": png()}, [""]),
        ({"1.cls": b"2", "readme": b"", ".hidden.png": png()}, []),
    ],
)
def test_labels_are_texts_numbers_or_folders(
    tmp_path: Path, members: dict[str, bytes], labels: list[str]
) -> None:
    assert [one.label for one in scan(write_tar(tmp_path / "a.tar", members))] == labels


def test_the_image_of_a_label_is_the_one_with_the_plain_ending(tmp_path: Path) -> None:
    members = {"1.seg.png": png(1), "1.png": png(2), "1.cls": b"2"}
    [found] = scan(write_tar(tmp_path / "a.tar", members))
    assert found.content == png(2)


def test_names_keep_the_case_that_endings_are_found_without(tmp_path: Path) -> None:
    members = {"Cat/DSC_1.JPG": png(1), "Cat/DSC_1.CLS": b"2", "Cat/DSC_2.Seg.PNG": png(2)}
    found = scan(write_tar(tmp_path / "a.tar", members))
    names = [("Cat/DSC_1.JPG", "2"), ("Cat/DSC_2.Seg.PNG", "Cat")]
    assert [(one.name, one.label) for one in found] == names


class Evil:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("a pickle was opened",)


def test_pickles_and_links_are_left_alone_and_nothing_is_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    evil = pickle.dumps(Evil())
    members = {
        "1.pyd": evil,
        "1.pth": evil,
        "1.pkl": evil,
        "../../2.png": png(),
        "/etc/3.png": png(),
    }
    path = write_tar(folder / "a.tar", members)
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            about = tarfile.TarInfo("4.png")
            about.type, about.linkname = kind, "/etc/passwd"
            tar.addfile(about)
    assert [one.name for one in scan(path)] == ["../../2.png", "/etc/3.png"]
    assert [one.name for one in tmp_path.rglob("*")] == ["set", "a.tar"]


def test_wherever_a_shard_is_truncated_that_is_noticed(tmp_path: Path) -> None:
    members = {"a/1.png": png(size=4), "a/1.cls": b"7", "a/2.png": png(1, size=4)}
    whole = write_tar(tmp_path / "a.tar", members).read_bytes()
    used = len(whole.rstrip(b"\0"))
    for length in [0, 100, *range(512, used, 256), used]:
        (tmp_path / "b.tar").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"b\.tar is damaged or truncated"):
            scan(tmp_path / "b.tar")


def test_a_damaged_header_is_noticed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a/1.png": png(), "a/2.png": png(1)})
    content = bytearray(path.read_bytes())
    content[content.index(b"a/2.png")] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="neither a file nor the end mark"):
        scan(path)


def test_a_packed_shard_is_refused_by_its_kind(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a"), io.BytesIO())
    with pytest.raises(InputError, match=r"a\.tar is compressed \(gzip\); unpack it"):
        scan(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("1.cls", b"\xff\xfe", "cannot read the label of a.tar/1"),
        ("1.json", b"{", "cannot read the label of a.tar/1"),
        ("1.json", json.dumps({"label": [1, 2]}).encode(), "is a list"),
        ("1.json", json.dumps({"label": 1.5}).encode(), "is a float"),
    ],
)
def test_an_odd_label_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.png": png(), name: content})
    with pytest.raises(InputError, match=words):
        scan(path)


def test_a_truncated_shard_is_named_once(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.png": png(), "1.cls": b"0"})
    path.write_bytes(path.read_bytes()[:522])
    with pytest.raises(InputError) as caught:
        scan(path)
    assert str(caught.value).count("is damaged or truncated") == 1
