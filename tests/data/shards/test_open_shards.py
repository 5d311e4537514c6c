"""Indexes: kept, made anew, refused; and the classes of a set."""

from pathlib import Path

import pytest
import torch
from photo_folder import PhotoFolder
from shard_sets import opened, png, shard, write_foreign, write_tar

from vitlit.data.shards import open_shards
from vitlit.data.shards.open_shards import check_shard_classes, find_shard_classes, open_indexes
from vitlit.data.shards.shard_index import build_index, read_shard_index, write_index
from vitlit.data.shards.shard_list import find_shards
from vitlit.errors import InputError


def test_an_index_survives_its_file(tmp_path: Path) -> None:
    path = write_foreign(tmp_path) / "set-001.tar"
    index = build_index(str(path), path.stat().st_size)
    write_index(index, tmp_path / "a.index")
    found = read_shard_index((tmp_path / "a.index").read_bytes(), "a.index")
    for name, value in vars(index).items():
        other = vars(found)[name]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


@pytest.mark.parametrize(
    "change",
    [
        {"offset": torch.tensor([512, -1])},
        {"offset": torch.tensor([512, 10**15])},
        {"size": torch.tensor([1.0, 2.0])},
        {"label": torch.tensor([0, 7])},
        {"name_end": torch.tensor([5, 3])},
        {"names": torch.zeros(1, dtype=torch.uint8)},
        {"bad": [(9, "x")]},
        {"bytes": 3},
    ],
)
def test_an_index_that_fits_no_shard_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = write_foreign(tmp_path, count=2) / "set-000.tar"
    index = build_index(str(path), path.stat().st_size)
    vars(index).update(change)
    write_index(index, tmp_path / "a.index")
    with pytest.raises(InputError, match=r"a\.index is no index of a shard"):
        read_shard_index((tmp_path / "a.index").read_bytes(), "a.index")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x80\x04\x95cos\nsystem"])
def test_a_file_that_is_no_index_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="is no index of a shard"):
        read_shard_index(content, "a.index")


def test_the_index_of_shards_of_others_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_foreign(tmp_path / "s")
    first = opened(place)
    monkeypatch.setattr(open_shards, "build_index", lambda *_: pytest.fail("read again"))
    again = opened(place)
    assert [*again.paths] == [*first.paths]
    assert torch.equal(again.offset, first.offset)


def test_a_shard_of_others_that_changes_gets_a_new_index(tmp_path: Path) -> None:
    place = write_foreign(tmp_path / "s")
    opened(place)
    write_tar(place / "set-000.tar", {"9.png": png(), "9.cls": b"0"})
    assert [Path(path).name for path in opened(place).paths][:2] == ["9.png", "1-0.png"]


def test_an_index_that_is_older_than_its_shard_is_refused(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    place = shard(photo_folder(), tmp_path / "s")
    path = place / "all-000000.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1  # of the same size, and in place
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"all-000000\.tar\.index is older than its shard"):
        opened(place)


def test_without_a_folder_for_indexes_they_are_made_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITLIT_CACHE", str(tmp_path / "file"))
    assert len(opened(write_foreign(tmp_path / "s"))) == 10
    assert "cannot keep the indexes of shards" in caplog.text


def labelled(folder: Path, labels: list[bytes]) -> Path:
    members: dict[str, bytes] = {}
    for i, label in enumerate(labels):
        members |= {f"{i}.png": png(i), f"{i}.cls": label}
    write_tar(folder / "a.tar", members)
    return folder


@pytest.mark.parametrize(
    ("texts", "names", "labels"),
    [
        ([b"2", b"0"], ["0", "1", "2"], [2, 0]),
        ([b"dog", b"cat", b"dog"], ["cat", "dog"], [1, 0, 1]),
        ([b"10", b"x"], ["10", "x"], [0, 1]),
    ],
)
def test_classes_follow_from_the_labels(
    tmp_path: Path, texts: list[bytes], names: list[str], labels: list[int]
) -> None:
    place = labelled(tmp_path / "s", texts)
    assert find_shard_classes(find_shards(place)) == names
    assert opened(place, names=names).labels.tolist() == labels


def test_values_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels of .* go up to 123456789"):
        find_shard_classes(find_shards(labelled(tmp_path / "s", [b"1", b"123456789"])))


def test_images_without_a_class_are_refused_where_one_is_needed(tmp_path: Path) -> None:
    write_tar(tmp_path / "s" / "a.tar", {"1.png": png()})
    assert opened(tmp_path / "s").labels.tolist() == [0]  # of pretrain and predict
    with pytest.raises(InputError, match=r"a\.tar has images without a class"):
        opened(tmp_path / "s", names=["cat", "dog"])


def test_other_classes_than_the_models_are_refused(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    own = find_shards(shard(photo_folder(), tmp_path / "s"))
    check_shard_classes(own, ["cat", "dog"])
    for names, words in (
        (["cat", "fox"], "only the shards have dog; only the model has fox"),
        (["dog", "cat"], "in another order"),
    ):
        with pytest.raises(InputError, match=words):
            check_shard_classes(own, names)
    numbers = find_shards(labelled(tmp_path / "n", [b"0", b"4"]))
    check_shard_classes(numbers, list("abcde"))  # numbers say nothing of names
    with pytest.raises(InputError, match="go up to 4, and the model has 2 classes"):
        check_shard_classes(numbers, ["cat", "dog"])


def test_only_the_part_that_is_asked_for_is_opened(tmp_path: Path) -> None:
    write_foreign(tmp_path / "s" / "train")
    (tmp_path / "s" / "test").mkdir()
    (tmp_path / "s" / "test" / "a.tar").write_bytes(b"broken")
    found = find_shards(tmp_path / "s")
    assert len(open_indexes(found, ["train"])) == 2
    with pytest.raises(InputError, match=r"a\.tar is damaged or truncated"):
        open_indexes(found, ["test"])


def test_a_shard_whose_labels_are_numbers_by_chance_has_names_as_the_others(tmp_path: Path) -> None:
    for name, text in (("a", b"2"), ("b", b"ace"), ("c", b"10")):
        write_tar(tmp_path / "s" / f"{name}.tar", {f"{name}.png": png(), f"{name}.cls": text})
    names = find_shard_classes(find_shards(tmp_path / "s"))
    assert names == ["10", "2", "ace"]
    assert opened(tmp_path / "s", names=names).labels.tolist() == [1, 2, 0]
