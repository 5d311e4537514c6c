"""Files that survive a crash and notice damage: flips, kills while writing, full disks."""

import errno
import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import time
import zipfile
from array import array
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from nobody import folder_for_all, without_rights
from promises import WRITER

from vitlit.errors import InputError
from vitlit.training import runs
from vitlit.weights import checkpoint, durable_file
from vitlit.weights.file_reader import read_weight_file


def save(value: Any) -> Callable[[Any], None]:
    return lambda file: torch.save(value, file)


def test_torch_and_zip_read_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    durable_file.write_durable(file, save({"a": torch.arange(5)}))
    for mmap in (True, False):
        content = torch.load(file, weights_only=True, mmap=mmap)
        assert content["a"].tolist() == [0, 1, 2, 3, 4]
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None


def test_the_comment_of_the_archive_is_the_sum_of_all_before_it(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    durable_file.write_durable(file, save({"a": torch.arange(5)}))
    with zipfile.ZipFile(file) as archive:
        mark, kind, digest = archive.comment.decode().split()
    assert (mark, kind) == ("vitlit", "sha256")
    assert digest == hashlib.sha256(file.read_bytes()[:-64]).hexdigest()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fsync of a folder")
def test_a_checkpoint_is_on_the_disk_before_its_name_is(
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
    durable_file.write_durable(tmp_path / "a.ckpt", save({"a": 1}))
    assert done == ["fsync file", "rename", "fsync folder"]


def test_what_was_written_is_counted_in_bytes() -> None:
    """As Python's own files do, for elements of any width; the sum is that of the bytes."""
    file, own = BytesIO(), BytesIO()
    summed = durable_file._Summed(file)
    for data in (array("d", [1.0, 2.0]), b"abc", memoryview(array("H", [7])), bytearray(b"x"), b""):
        assert summed.write(data) == own.write(data)
    assert file.getvalue() == own.getvalue()
    assert summed.held == own.getvalue()[-2:]
    assert summed.sum.digest() == hashlib.sha256(own.getvalue()[:-2]).digest()


def test_no_flipped_bit_is_overlooked(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    durable_file.write_durable(file, save({"a": torch.randn(300)}))
    good = file.read_bytes()
    rng = random.Random(0)
    places = [*rng.sample(range(8 * len(good)), 300), *range(8 * (len(good) - 100), 8 * len(good))]
    for bit in places:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bad)
        with pytest.raises(InputError, match="damaged"):
            durable_file.check_durable(file)


def test_a_large_file_is_summed_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable_file, "LARGE_BYTES", 2000)
    file, small = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    durable_file.write_durable(file, save({"a": torch.randn(3000)}))
    durable_file.write_durable(small, save({}))
    assert small.stat().st_size < 2000 < file.stat().st_size
    assert durable_file.check_durable(file)
    assert durable_file.check_durable(small)
    sums: list[bytes] = []
    real = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda: sums.append(b"") or real())
    assert durable_file.check_durable(file)
    assert len(sums) == 0
    assert durable_file.check_durable(small)
    assert len(sums) == 1
    bad = bytearray(file.read_bytes())
    bad[5000] ^= 1
    file.write_bytes(bad)
    later = file.stat().st_mtime_ns + 10**9
    os.utime(file, ns=(later, later))
    with pytest.raises(InputError, match="damaged"):
        durable_file.check_durable(file)


@pytest.mark.parametrize("cut", [1, 64, 78, 100, 1000])
def test_a_file_cut_short_is_not_intact(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    durable_file.write_durable(file, save({"a": torch.randn(3000)}))
    assert durable_file.is_intact(file)
    file.write_bytes(file.read_bytes()[:-cut])
    assert not durable_file.is_intact(file)


CHANGES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    *(
        (f"short of {n}", lambda data, n=n: data[:-n], f"truncated by {n} bytes")
        for n in range(1, 79)
    ),
    *(
        (f"longer by {n}", lambda data, n=n: data + b"\0" * n, f"{n} bytes follow its end")
        for n in (1, 2, 21, 22, 77, 78, 99, 100, 101, 4096)
    ),
]


def test_a_checkpoint_short_of_its_end_or_longer_is_damaged_and_not_another_programs(
    tmp_path: Path,
) -> None:
    """Readers of zip archives take each of these for whole, with another comment or none."""
    file = tmp_path / "best.ckpt"
    durable_file.write_durable(file, save({"a": torch.randn(300)}))
    good = file.read_bytes()
    for name, change, reason in CHANGES:
        file.write_bytes(change(good))
        assert zipfile.is_zipfile(file), name
        with pytest.raises(InputError, match=rf"best\.ckpt is damaged: .*{reason}"):
            checkpoint.read_checkpoint(file)
        with pytest.raises(InputError, match="is damaged"):
            read_weight_file(file)
        assert not durable_file.is_intact(file)


def test_a_training_goes_on_from_the_checkpoint_before_one_that_lost_its_last_byte(
    tmp_path: Path,
) -> None:
    file = tmp_path / "last.ckpt"
    for number in (1, 2):
        durable_file.write_durable(file, save({"a": number}), keep=True)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is damaged or missing; the one before it"):
        assert checkpoint.newest_undamaged(file) == durable_file.older_path(file)


def test_a_file_of_another_program_has_no_sum(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "a.ckpt")
    assert not durable_file.check_durable(tmp_path / "a.ckpt")
    assert durable_file.is_intact(tmp_path / "a.ckpt")


def test_an_archive_without_a_whole_last_record_is_left_to_its_reader(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    for end in (b"", b"PK\5\6" + b"\1" * 17):  # one byte short of a record
        file.write_bytes(b"x" * 200 + end)
        assert durable_file.check_durable(file) is False


def test_the_file_before_is_kept_beside(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    for number in range(3):
        durable_file.write_durable(file, save({"a": number}), keep=True)
    assert torch.load(file, weights_only=True)["a"] == 2
    assert torch.load(tmp_path / "last-1.ckpt", weights_only=True)["a"] == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_the_file_before_is_kept_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", refuse)
    for number in range(2):
        durable_file.write_durable(tmp_path / "last.ckpt", save({"a": number}), keep=True)
    assert torch.load(tmp_path / "last-1.ckpt", weights_only=True)["a"] == 0


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "last.ckpt"
    durable_file.write_durable(file, save({"a": 1}))
    old = file.read_bytes()

    class Full(durable_file._Summed):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable_file, "_Summed", Full)
    with pytest.raises(InputError, match=r"cannot write .*last\.ckpt: No space left"):
        durable_file.write_durable(file, save({"a": torch.zeros(9)}))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert file.read_bytes() == old


def test_too_little_room_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has \d+ MB free, .* need \d+ MB"):
        runs.require_room(tmp_path, 2**60)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_folder_without_permission_is_refused() -> None:
    with folder_for_all() as folder:
        folder.chmod(0o555)
        with without_rights(), pytest.raises(InputError, match="cannot write into"):
            runs.require_room(folder, 1)
        folder.chmod(0o700)


def filesystems() -> list[Path]:
    """Temporary folders on two file systems, where the machine has a second one."""
    return [path for path in (Path("/tmp"), Path("/dev/shm")) if os.access(path, os.W_OK)]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("place", filesystems())
def test_12_kills_while_saving_leave_12_loadable_files(place: Path, tmp_path: Path) -> None:
    """On each of two file systems; TMPDIR is always on the first."""
    folder = place / f"vitlit-{os.getpid()}"
    file, rng, number = folder / "last.ckpt", random.Random(0), 0
    try:
        for _ in range(12):
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(file), str(number)], stdout=subprocess.PIPE
            )
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.02, 0.5))
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
            if not file.exists():  # killed before the first was complete
                continue
            assert durable_file.check_durable(file)
            content = torch.load(file, weights_only=True)
            assert bool((content["weights"] == content["number"]).all())
            assert content["number"] >= number
            number = content["number"]
            assert not durable_file.older_path(file).exists() or durable_file.check_durable(
                durable_file.older_path(file)
            )
        assert number > 12
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
