"""Which shards a set has, and to which part each belongs."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from photo_folder import PhotoFolder
from shard_sets import opened, shard, write_foreign, write_tar

from vitlit.data.shards.places import place_of, place_text
from vitlit.data.shards.shard_list import expand_braces, find_shards, shards_among
from vitlit.errors import InputError


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    "pattern", ["a", "{008..011}.tar", "x{1..3}y", "{a,b}-{01..02}", "{8..10}"]
)
def test_braces_stand_for_what_bash_makes_of_them(pattern: str) -> None:
    expected = subprocess.run(
        ["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True
    )
    assert expand_braces(pattern) == expected.stdout.split()


def test_a_pattern_for_more_shards_than_any_set_has_is_refused() -> None:
    for pattern in ("{0..9999999999}", "{0..9999}" * 3):
        with pytest.raises(InputError, match="shards"):
            expand_braces(pattern)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train/1.tar", "val/1.tar", "test/2.tar"], ["train", "val", "test"]),
        (["imagenet-train-000.tar", "imagenet-validation-000.tar"], ["train", "val"]),
        (["a.tar", "trainer.tar", "latest.tar"], ["all"]),
        (["only_test_1.tar"], ["test"]),
    ],
)
def test_the_names_of_shards_say_their_parts(
    tmp_path: Path, names: list[str], parts: list[str]
) -> None:
    for name in names:
        write_tar(tmp_path / "s" / name, {})
    found = find_shards(tmp_path / "s")
    assert [*found.parts] == parts
    assert len(found.shards) == len(names)


def test_a_pattern_finds_what_a_shell_would(tmp_path: Path) -> None:
    write_foreign(tmp_path / "s", shards=12)
    for pattern, count in (("set-{003..005}", 3), ("set-01?", 2), ("*-00[12]*", 2), ("*", 12)):
        found = find_shards(place_of(str(tmp_path / "s" / f"{pattern}.tar")))
        assert len(found.shards) == count


def test_a_url_keeps_its_slashes() -> None:
    assert place_text(place_of("https://host/a/{0..3}.tar")) == "https://host/a/{0..3}.tar"
    assert place_of("https://host/a") == place_of(place_of("https://host/a"))
    assert place_of("a/b").is_absolute()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("gone", "no folder .*gone"),
        ("empty", r"no shards \(.tar files\) in .*empty"),
        ("empty/*.tar", r"no shards \(.tar files\) in "),
        ("some/{00..02}.tar", "cannot read the shard .*02.tar: No such file"),
        ("mixed", r"1 of the 2 shards .* do not say to which part .* b\.tar"),
        ("half", "half is half written; finish it with the command that began it"),
        ("https://host.invalid/*.tar", "a URL cannot be searched"),
        ("ftp://host/a.tar", "URLs of ftp:// are not read; known: http, https"),
        ("python://host/a.tar", "URLs of python:// are not read"),
    ],
)
def test_a_place_without_shards_is_refused(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("some/00.tar", "some/01.tar", "mixed/train.tar", "mixed/b.tar", "half/a.tar"):
        write_tar(tmp_path / name, {})
    (tmp_path / "half" / "unfinished").touch()
    with pytest.raises(InputError, match=words.replace(" b\\.tar", ".*b\\.tar")):
        opened(place_of(place if "://" in place else str(tmp_path / place)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "x"}, "its format is 'x'"),
        (
            {"shards": [{"file": "../a.tar", "part": "all"}]},
            r"lists \.\./a\.tar, which is no shard",
        ),
        ({"shards": [{"file": "/etc/a.tar", "part": "all"}]}, "which is no shard beside it"),
        ({"shards": [{"file": "a.tar", "part": "../x"}]}, "which is no shard beside it"),
        ({"shards": []}, "lists nothing"),
        ({"shards": 3}, "is no list of shards"),
    ],
)
def test_a_list_of_anything_else_is_refused(
    photo_folder: PhotoFolder, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    file = shard(photo_folder(), tmp_path / "s") / "shards.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError, match=words):
        find_shards(tmp_path / "s")


def test_predict_takes_shards_but_not_beside_files(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    photos, place = photo_folder(), write_foreign(tmp_path / "s")
    shards = [str(path) for path in sorted(place.glob("*.tar"))]
    assert shards_among([str(photos), str(photos / "cat" / "0.png")]) is None
    for given in (shards, [str(place)], [str(place / "*.tar")]):
        found = shards_among(given)
        assert found is not None
        assert [one.where for one in found.shards] == shards
    with pytest.raises(InputError, match="give them in two calls"):
        shards_among([*shards, str(photos)])
