"""Published sets are prepared by one process at a time, with a lock where there can be one."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from nobody import folder_for_all, without_rights

from vitlit.data import datasets
from vitlit.data.datasets import prepare_data_set
from vitlit.data.published.preparing import preparing


class Preparations:
    """Stands for a class of torchvision: its sets are there after a moment; counts its calls."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.running = self.most = 0

    def __call__(self, root: str, split: str = "", **settings: object) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        folder = Path(root, split or "set")
        if not folder.is_dir():
            folder.mkdir()
            time.sleep(0.2)
            self.done.append(folder.name)
        self.running -= 1


def prepare_twice(dataset: str, folder: Path) -> None:
    """By two threads at once, which locks keep apart as they do processes."""
    threads = [
        threading.Thread(target=prepare_data_set, args=(dataset, folder), kwargs={"download": True})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)


@pytest.mark.parametrize(("dataset", "names"), [("imagenet", ["train", "val"]), ("mnist", ["set"])])
def test_two_who_need_a_set_prepare_it_once(
    dataset: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Preparations()
    for module in ("datasets", "published.torchvision_sets"):
        monkeypatch.setattr(f"vitlit.data.{module}.torchvision_class", lambda name: made)
    for split in ("train", "val"):
        (tmp_path / f"ILSVRC2012_img_{split}.tar").touch()
    prepare_twice(dataset, tmp_path)
    assert made.done == names
    assert made.most == 1


def test_who_waits_is_told_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vitlit.data.published.preparing.QUIET_SECONDS", 0.0)
    with preparing("mnist", tmp_path):
        thread = threading.Thread(target=wait_for, args=(tmp_path,))
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
    thread.join(timeout=60)
    assert f"another process is preparing mnist in {tmp_path}; waiting for it" in caplog.text


def wait_for(folder: Path) -> None:
    with preparing("mnist", folder):
        pass


def test_a_set_in_a_folder_that_cannot_be_written_needs_no_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(datasets, "download_set", lambda *args: calls.append(args))
    with folder_for_all() as folder, without_rights():
        if folder.stat().st_uid != 0:
            folder.chmod(0o555)
        prepare_data_set("mnist", folder, download=True)
        prepare_data_set("mnist", folder / "missing", download=True)
        assert list(folder.iterdir()) == []
    assert len(calls) == 2


@pytest.mark.parametrize("is_new", [True, False])
def test_a_failure_leaves_what_was_there_before(is_new: bool, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    if not is_new:
        folder.mkdir()
    with pytest.raises(OSError, match="no network"), preparing("mnist", folder):
        raise OSError("no network")
    assert folder.exists() is not is_new
    assert list(tmp_path.rglob(".*")) == []


def fail_beside(other: threading.Thread, folder: Path) -> None:
    """Prepare without success while the other thread waits."""
    with preparing("mnist", folder):
        other.start()
        time.sleep(0.3)
        raise OSError("no network")


def test_who_waits_while_a_preparation_fails_still_works_alone(tmp_path: Path) -> None:
    """The failure removes the file that the other waits for."""
    other = threading.Thread(target=wait_for, args=(tmp_path,))
    with pytest.raises(OSError, match="no network"):
        fail_beside(other, tmp_path)
    other.join(timeout=60)
    assert not other.is_alive()
    assert (tmp_path / ".mnist.lock").exists()  # not the one that is gone
