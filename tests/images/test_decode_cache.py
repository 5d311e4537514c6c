"""The cache of decoded folders: when it is used, when it is built, and who builds it."""

import multiprocessing
import os
import signal
import time
from collections import namedtuple
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photo_folder import PhotoFolder
from PIL import Image

from vitlit import files
from vitlit.images import decode_cache, image_store
from vitlit.images.decode_cache import cache_folder, open_checked, open_decoded
from vitlit.images.find_images import list_images
from vitlit.images.framing import Framing
from vitlit.images.image_io import ImageInputError, read_image
from vitlit.images.image_store import FileImages, MemoryImages


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITLIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def photos(root: Path, in_chans: int = 3, size: tuple[int, int] = (8, 10)) -> FileImages:
    paths = list_images(root)
    return FileImages(paths, torch.arange(len(paths)), in_chans=in_chans, size=size)


def opened(root: Path, in_chans: int = 3, size: tuple[int, int] = (8, 10)) -> MemoryImages:
    return open_decoded(photos(root, in_chans, size), root)


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to make every later decoding fail."""

    def fail(path: str, **rest: Any) -> torch.Tensor:
        read_image(path, **rest)  # those that cannot be read are tried again
        raise AssertionError(f"{path} was decoded again")

    return lambda: monkeypatch.setattr(image_store, "read_image", fail)


def repaint(path: Path, colour: str) -> None:
    """Other pixels in a file of the same name, written at another time."""
    before = path.stat()
    Image.new("RGB", (24, 20), colour).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000))


# -- what it holds ----------------------------------------------------------------------------


@pytest.mark.parametrize("in_chans", [1, 3])
def test_cached_pixels_are_those_of_the_files(photo_folder: PhotoFolder, in_chans: int) -> None:
    root = photo_folder()
    files, indices = photos(root, in_chans), torch.tensor([5, 0, 5, 7])
    assert torch.equal(opened(root, in_chans).gather(indices), files.gather(indices))


def test_labels_come_from_the_files_as_listed_now(photo_folder: PhotoFolder) -> None:
    assert opened(photo_folder()).labels.tolist() == list(range(8))


def test_the_second_opening_decodes_nothing(
    photo_folder: PhotoFolder, no_decoding: Callable[[], None]
) -> None:
    root = photo_folder()
    first = opened(root).pixels
    no_decoding()
    assert torch.equal(opened(root).pixels, first)


def test_changing_the_tensor_never_alters_the_file(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    first = opened(root).pixels
    before = first.clone()
    first.zero_()
    assert torch.equal(opened(root).pixels, before)


def test_settings_have_caches_of_their_own(
    photo_folder: PhotoFolder, no_decoding: Callable[[], None]
) -> None:
    root = photo_folder()
    settings = [(3, (8, 10)), (1, (8, 10)), (3, (10, 8))]
    before = [opened(root, *which).pixels for which in settings]
    no_decoding()
    for which, pixels in zip(settings, before, strict=True):
        assert torch.equal(opened(root, *which).pixels, pixels)


def test_another_fit_has_a_cache_of_its_own(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    usual, squashed = photos(root), photos(root)
    squashed.framing = Framing("squash", 0.5)
    for images in (usual, squashed, usual):
        assert torch.equal(open_decoded(images, root).pixels[:8], images.gather(torch.arange(8)))


def test_the_cache_lies_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITLIT_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "vitlit" / "decoded"


# -- when it is outdated ----------------------------------------------------------------------

CHANGES: dict[str, Callable[[Path], object]] = {
    "repainted": lambda root: repaint(root / "cat" / "0.png", "red"),
    "added": lambda root: Image.new("RGB", (9, 9)).save(root / "cat" / "00.png"),
    "removed": lambda root: (root / "dog" / "1.jpg").unlink(),
    "renamed": lambda root: (root / "cat" / "0.png").rename(root / "cat" / "9.png"),
    "moved": lambda root: (root / "cat" / "3.jpg").rename(root / "dog" / "00.jpg"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_decoded_again(photo_folder: PhotoFolder, change: str) -> None:
    root = photo_folder()
    opened(root)
    CHANGES[change](root)
    files = photos(root)
    assert torch.equal(opened(root).pixels, files.gather(torch.arange(len(files))))


def test_a_file_of_the_same_time_but_another_length_is_noticed(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    path = root / "cat" / "0.png"
    opened(root)
    time = path.stat().st_mtime_ns
    repaint(path, "red")
    os.utime(path, ns=(time, time))
    assert torch.equal(opened(root).pixels[0], photos(root).gather(torch.tensor([0]))[0])


def test_a_file_of_the_same_length_but_another_time_is_noticed(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    path = root / "cat" / "0.png"
    Image.new("RGB", (24, 20), "blue").save(path, compress_level=0)
    opened(root)
    before = path.stat()
    Image.new("RGB", (24, 20), "red").save(path, compress_level=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000))
    assert path.stat().st_size == before.st_size
    assert torch.equal(opened(root).pixels[0], photos(root).gather(torch.tensor([0]))[0])


def test_only_the_newest_cache_of_a_folder_is_kept(photo_folder: PhotoFolder, home: Path) -> None:
    root = photo_folder()
    opened(root)
    opened(root, in_chans=1)
    repaint(root / "cat" / "0.png", "red")
    opened(root)
    assert len(list(home.glob("*.npy"))) == 2  # grey and colour


def test_who_has_the_old_cache_open_keeps_it(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    old = opened(root).pixels
    before = photos(root).gather(torch.arange(8))
    repaint(root / "cat" / "0.png", "red")
    opened(root)
    assert torch.equal(old, before)


@pytest.mark.parametrize("content", ["cut", "empty", "text", "shape", "kind"])
def test_a_corrupt_cache_is_built_again(
    photo_folder: PhotoFolder, home: Path, content: str
) -> None:
    root = photo_folder()
    before = opened(root).pixels.clone()
    (path,) = home.glob("*.npy")
    if content == "shape":
        np.save(path, np.zeros((8, 3, 10, 8), dtype=np.uint8))
    elif content == "kind":
        np.save(path, np.zeros((8, 3, 8, 10), dtype=np.int8))
    else:
        whole = path.read_bytes()
        path.unlink()
        path.write_bytes({"cut": whole[:-1], "empty": b"", "text": b"pixels"}[content])
    assert torch.equal(opened(root).pixels, before)


# -- where it cannot be -----------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the cache's folder should be."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITLIT_CACHE", str(tmp_path / "file"))


@pytest.mark.usefixtures("nowhere")
def test_without_a_place_for_the_cache_images_are_decoded_into_memory(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    root = photo_folder()
    assert torch.equal(opened(root).pixels, photos(root).decode_all().pixels)
    (record,) = caplog.records
    assert "cannot keep decoded images in" in record.getMessage()


def test_a_full_disk_is_noticed_before_decoding(
    photo_folder: PhotoFolder,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 5, 5)
    monkeypatch.setattr(decode_cache.shutil, "disk_usage", lambda path: usage)
    assert len(opened(photo_folder())) == 8
    assert "0.00 GB are free" in caplog.text
    assert list(home.glob("*.npy")) == []


@pytest.mark.usefixtures("nowhere")
def test_other_processes_of_the_machine_do_not_repeat_it(
    photo_folder: PhotoFolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    opened(photo_folder())
    assert caplog.records == []


# -- files that cannot be read ----------------------------------------------------------------


def broken(root: Path) -> Path:
    (root / "dog" / "2.png").write_bytes(b"broken")
    return root


def test_a_bad_file_is_remembered_with_its_reason(
    photo_folder: PhotoFolder, no_decoding: Callable[[], None]
) -> None:
    root = broken(photo_folder())
    first = list(opened(root).bad)
    no_decoding()
    assert [file.place for file in first] == [6]
    assert list(opened(root).bad) == first


def test_the_cache_holds_the_other_files(photo_folder: PhotoFolder) -> None:
    root = broken(photo_folder())
    good = torch.tensor([0, 1, 2, 3, 4, 5, 7])
    opened(root)
    assert torch.equal(opened(root).gather(good), photos(root).gather(good))


def test_a_folder_of_bad_files_alone_is_remembered(
    photo_folder: PhotoFolder, no_decoding: Callable[[], None]
) -> None:
    root = photo_folder(count=1)
    for path in root.glob("*/*"):
        path.write_bytes(b"broken")
    opened(root)
    no_decoding()
    assert [file.place for file in opened(root).bad] == [0, 1]


def test_a_mended_file_is_noticed(photo_folder: PhotoFolder) -> None:
    root = broken(photo_folder())
    opened(root)
    Image.new("RGB", (9, 9)).save(root / "dog" / "2.png")
    assert list(opened(root).bad) == []


@pytest.mark.parametrize("content", ["", "{}", '{"thorough": true, "bad": []}', "[1]"])
def test_without_its_list_a_cache_is_built_again(
    photo_folder: PhotoFolder, home: Path, content: str
) -> None:
    root = broken(photo_folder())
    before = list(opened(root).bad)
    (path,) = home.glob("*.json")
    path.write_text(content)
    assert list(opened(root).bad) == before


@pytest.mark.parametrize("thorough", [False, True])
def test_large_sets_are_checked_once(
    photo_folder: PhotoFolder,
    thorough: bool,
    no_decoding: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = broken(photo_folder())
    first = open_checked(photos(root), root, thorough=thorough).bad
    no_decoding()
    monkeypatch.setattr(image_store, "check_image_file", image_store.read_image)
    assert [file.place for file in first] == [6]
    assert open_checked(photos(root), root, thorough=thorough).bad == first


def test_a_look_at_headers_is_not_taken_for_decoding(photo_folder: PhotoFolder) -> None:
    root = photo_folder()
    path = root / "cat" / "0.png"
    content = bytearray(path.read_bytes())
    content[200] ^= 255  # amid the pixels
    path.write_bytes(content)
    found = [open_checked(photos(root), root, thorough=way).bad for way in (False, True)]
    assert [len(bad) for bad in found] == [0, 1]


def test_without_a_place_for_the_list_it_is_made_each_time(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITLIT_CACHE", str(tmp_path / "file"))
    root = broken(photo_folder())
    assert len(open_checked(photos(root), root, thorough=False).bad) == 1


# -- who builds it ----------------------------------------------------------------------------

FORK = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
forked = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")


def build(root: Path, log: Path, start: Barrier | None) -> None:
    """In another process: slowly, noting what is decoded and said; without ``start`` it dies."""
    decode, image_store.CHUNK_IMAGES = image_store.read_image, 1

    def slow(path: str, **rest: Any) -> torch.Tensor:
        with log.open("a") as file:
            file.write(f"{path}\n")
        if start is None and "dog" in path:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return decode(path, **rest)

    def say(text: str) -> None:
        log.with_name(f"said-{os.getpid()}").write_text(text)

    image_store.read_image, files.say = slow, say
    images = photos(root)
    if start is not None:
        start.wait(timeout=60)
    found = open_decoded(images, root).pixels.sum().item()
    log.with_name(f"sum-{os.getpid()}").write_text(str(found))


def builder(root: Path, log: Path, start: Barrier | None) -> BaseProcess:
    """Forked: a process that begins anew imports for seconds."""
    process = FORK.Process(target=build, args=(root, log, start))
    process.start()
    return process


def texts(folder: Path, pattern: str) -> list[str]:
    return [path.read_text() for path in folder.glob(pattern)]


@forked
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_processes_that_start_together_build_one_cache(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    root, log = photo_folder(), tmp_path / "decoded.log"
    together = FORK.Barrier(2)
    processes = [builder(root, log, together) for _ in range(2)]
    for process in processes:
        process.join(timeout=60)
    assert sorted(log.read_text().splitlines()) == photos(root).paths
    assert [int(found) for found in texts(tmp_path, "sum-*")] == [
        int(opened(root).pixels.sum())
    ] * 2
    assert sum("waiting for it" in said for said in texts(tmp_path, "said-*")) == 1


@forked
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_what_a_killed_builder_leaves_is_not_believed_and_removed(
    photo_folder: PhotoFolder, tmp_path: Path, home: Path
) -> None:
    root = photo_folder(count=9)
    process = builder(root, tmp_path / "decoded.log", None)
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list(home.glob("*.tmp"))) == 1
    files = photos(root)
    assert torch.equal(opened(root).pixels, files.gather(torch.arange(len(files))))
    assert list(home.glob("*.tmp")) == []


def test_an_unfinished_cache_that_somebody_writes_is_left_alone(
    photo_folder: PhotoFolder, home: Path
) -> None:
    home.mkdir(parents=True)
    (home / "other-1.tmp").touch()
    with decode_cache.FileLock(home / "other.lock"):
        opened(photo_folder())
    assert (home / "other-1.tmp").exists()


def test_a_file_that_can_be_read_again_is_noticed(
    photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photo_folder()
    check = image_store.check_image_file

    def fail(path: Any) -> None:
        if str(path).endswith("0.png"):
            raise ImageInputError(str(path), "Input/output error")
        check(path)

    with monkeypatch.context() as patch:  # as a disk that fails for a moment
        for module in (image_store, decode_cache):
            patch.setattr(module, "check_image_file", fail)
        for _ in range(2):
            assert len(open_checked(photos(root), root, thorough=False).bad) == 2
    assert open_checked(photos(root), root, thorough=False).bad == []
