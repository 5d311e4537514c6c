"""Names that are free, and files and folders that are whole or not there."""

import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from vitlit.errors import InputError
from vitlit.files import (
    check_writable,
    expanded,
    free_path,
    naming_full_disk,
    new_folder,
    replacing,
    run_name,
    whole_folder,
)


def test_a_free_name_counts_up(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert free_path(path) == path
    path.touch()
    assert free_path(path) == tmp_path / "a-2.csv"
    (tmp_path / "a-2.csv").touch()
    assert free_path(path) == tmp_path / "a-3.csv"
    (tmp_path / "a-3.csv").symlink_to("nowhere")
    assert free_path(path) == tmp_path / "a-4.csv"


def begin(path: Path) -> None:
    """Write a part, and fail."""
    path.write_text("half")
    raise ZeroDivisionError


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        begin(part)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fsync of a folder")
def test_bytes_reach_the_disk_before_their_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(handle: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        done.append("fsync folder" if is_folder else "fsync file")
        fsync(handle)

    def note_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    with replacing(tmp_path / "a", sync=True, before=lambda: done.append("before")) as part:
        part.write_text("new")
    assert done == ["fsync file", "before", "rename", "fsync folder"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as part:
        (part / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "1"
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "half") as part:
        begin(part / "a")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_files_of_a_folder_that_is_written_again_are_replaced_together(tmp_path: Path) -> None:
    for number in ("1", "2"):
        with whole_folder(tmp_path / "out", replace=True) as part:
            (part / "a").write_text(number)
    assert (tmp_path / "out" / "a").read_text() == "2"
    (tmp_path / "out" / "b").write_text("mine")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "out", replace=True) as part:
        begin(part / "a")
    assert (tmp_path / "out" / "a").read_text() == "2"
    assert (tmp_path / "out" / "b").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "empty"):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "begun") as folder:
        begin(folder / "a")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("there", "link"):
        exists = pytest.raises(InputError, match=rf"{name} exists; give .*another name")
        with exists, new_folder(tmp_path / name):
            pass


def test_a_link_that_appears_meanwhile_does_not_lose_the_result(tmp_path: Path) -> None:
    kept = pytest.raises(InputError, match=r"the result is in .*out-2")
    with kept, whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("result")
        (tmp_path / "out").symlink_to("nowhere")
    assert (tmp_path / "out-2" / "a").read_text() == "result"


class OtherError(Exception):
    """Of a library that does not pass on what the system said."""


def fail_at(number: int) -> None:
    try:
        raise OSError(number, os.strerror(number))
    except OSError:
        raise OtherError("writer failed") from None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_disk_that_takes_no_more_is_named_even_behind_another_error(
    number: int, tmp_path: Path
) -> None:
    reason = os.strerror(number)
    path, words = tmp_path / "a", f"cannot write .*a: {reason}; free some space"
    refused = pytest.raises(InputError, match=words)
    with refused as caught, replacing(path) as part, naming_full_disk(path):
        part.touch()
        fail_at(number)
    assert caught.value.arguments == ("out",)
    assert list(tmp_path.iterdir()) == []


def test_an_error_without_a_reason_is_of_the_disk_if_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OtherError), naming_full_disk(tmp_path / "a"):
        raise OtherError
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr("vitlit.files.shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="No space left"), naming_full_disk(tmp_path / "a"):
        raise OtherError


def test_a_folder_that_another_program_made_meanwhile_costs_nothing(tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match=r"made .*out meanwhile; the result is in .*out-2")
    with refused, whole_folder(tmp_path / "out") as part:
        (part / "a").write_text("ours")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a").write_text("theirs")
    assert (tmp_path / "out" / "a").read_text() == "theirs"
    assert (tmp_path / "out-2" / "a").read_text() == "ours"


def test_a_place_below_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()
    check_writable(tmp_path / "new" / "report")
    with pytest.raises(InputError, match=r"cannot write into .*file\.txt"):
        check_writable(tmp_path / "file.txt" / "report")


def test_an_unknown_user_stays_in_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/photos") == Path("/home/me/photos")
    assert expanded("~nobody-of-this-name/photos") == Path("~nobody-of-this-name/photos")


def test_a_part_of_a_series_is_named_with_its_series() -> None:
    assert run_name(Path("lightning_logs/first")) == "first"
    assert run_name(Path("lightning_logs/cv/fold1")) == "cv/fold1"
    assert run_name(Path("lightning_logs/longer/repeat2")) == "longer/repeat2"
