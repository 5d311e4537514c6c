"""How many processes load batches: as many as the machine allows, and shared memory takes."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from photo_folder import PhotoFolder
from processes import can_mount, environment

from vitlit.data import loading
from vitlit.data.batch import Batch
from vitlit.data.datamodule import PlainImageData
from vitlit.data.loading import Plan, needed_bytes, plan_loading
from vitlit.errors import InputError

DOCKER = 64 * 2**20  # bytes of /dev/shm in a container by default
PHOTOS = 128 * 3 * 224 * 224  # bytes of a batch


def test_without_a_limit_all_processes_load() -> None:
    assert plan_loading(8, PHOTOS, 10**6, None) == Plan(8, 2)
    assert plan_loading(8, PHOTOS, 10**6, 2**34) == Plan(8, 2)


def test_what_does_not_fit_into_a_container_is_loaded_by_the_main_process() -> None:
    assert plan_loading(8, PHOTOS, 10**6, DOCKER / 2).processes == 0


@pytest.mark.parametrize("room", [10**6 * n for n in range(1, 70, 3)])
@pytest.mark.parametrize("processes", [1, 2, 8])
def test_a_plan_fits_and_no_larger_one_would(room: int, processes: int) -> None:
    size, images = 10**6, 1000
    found = plan_loading(processes, size, images, room)
    # by counting: batches of each process, one in use, one on its way, and the order itself
    filled = [size] * (found.processes * found.ready + 2) + [9 * images]
    assert found.processes == 0 or sum(filled) <= room
    if found.processes < processes:
        assert needed_bytes(Plan(found.processes + 1, 1), size, images) > room
    if found.processes and found.ready == 1:
        assert needed_bytes(Plan(found.processes, 2), size, images) > room


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_batches_are_pinned_for_a_gpu_alone(
    device: str, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever there is a GPU: to pin them for a training on the CPU would occupy it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("vitlit.data.resident.fits", lambda *_: False)
    data = PlainImageData(patch_size=4)
    data.setup("validate")
    assert not data.val_dataloader().pin_memory  # nobody says that it goes to a GPU
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=strategy, num_devices=1, global_rank=0, world_size=1
    )
    assert data.val_dataloader().pin_memory == pinned


def photos(root: Path, **settings: Any) -> PlainImageData:
    data = PlainImageData(
        dataset="folder", data_dir=str(root), img_size=16, patch_size=8, batch_size=4, **settings
    )
    data.setup("validate")
    return data


def loader(data: PlainImageData, monkeypatch: pytest.MonkeyPatch, room: int | None) -> Any:
    monkeypatch.setattr(loading, "shared_memory_room", lambda: room)
    return data.val_dataloader()


def test_a_small_shared_memory_is_told_once_and_the_same_batches_come(
    photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = photos(photo_folder(count=10), num_workers=2, memory_gb=0, val_fraction=0.3)
    many = loader(data, monkeypatch, None)
    assert (many.num_workers, many.prefetch_factor, caplog.text) == (2, 2, "")
    few = loader(data, monkeypatch, 20_000)
    assert few.num_workers == 1
    assert "one process loads them" in caplog.text
    none = loader(data, monkeypatch, 1000)
    assert none.num_workers == 0
    loader(data, monkeypatch, 1000)
    assert caplog.text.count("the main process loads them") == 1
    assert "/dev/shm has 0 MB free, too little for 2 processes" in caplog.text
    first, second = ([batch.x for batch in one] for one in (few, none))
    assert all(map(torch.equal, first, second))


def test_batches_of_images_in_memory_are_counted_too(
    photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photos(photo_folder(count=10), num_workers=2)
    assert loader(data, monkeypatch, 1000).num_workers == 0
    assert loader(data, monkeypatch, 10**6).num_workers == 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # this machine has fewer
def test_processes_are_as_many_as_may_be_used_and_8_at_most(
    photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "FEW_IMAGES", 2)
    data = photos(photo_folder(count=10), memory_gb=0, val_fraction=0.3)
    for usable, expected in ((1, 1), (3, 3), (96, 8)):
        monkeypatch.setattr(loading, "usable_cpus", lambda usable=usable: usable)
        assert loader(data, monkeypatch, None).num_workers == expected


def test_a_full_shared_memory_is_an_error_of_the_batch_and_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(tensor: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    parts = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), *torch.zeros(3, 2).long()
    batch = Batch(*parts, epoch=0, key=0)
    assert loading.share_batch(batch) is batch  # in the main process nothing is passed on
    monkeypatch.setattr(loading, "get_worker_info", lambda: "a worker")
    with pytest.raises(InputError, match=r"/dev/shm is full.*num_workers 0") as caught:
        loading.share_batch(batch)
    assert caught.value.arguments == ("num_workers",)


SMALL_MEMORY = 'mount -t tmpfs -o size=$0 none /dev/shm && exec "$@"'
LOADING = """
import sys, torch
from vitlit.data.datamodule import PlainImageData
from vitlit.data import loading
if sys.argv[2] == "blind":
    loading.shared_memory_room = lambda: None
data = PlainImageData(dataset="folder", data_dir=sys.argv[1], img_size=128, patch_size=8,
                      batch_size=16, num_workers=2, memory_gb=0, val_fraction=0.6)
data.setup("validate")
loaded = sum(int(batch.valid.sum()) for batch in data.val_dataloader())
print(loaded == len(data.splits["val"]) > 64)
"""


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.skipif(not can_mount(), reason="needs a /dev/shm of its own")
@pytest.mark.parametrize(
    ("room", "look", "words"),
    [
        ("2m", "", "the main process loads them"),
        ("5500k", "", "one process loads them"),
        ("1m", "blind", "num_workers 0"),  # it became full later
    ],
)
def test_a_container_with_little_shared_memory_never_hangs(
    photo_folder: PhotoFolder, room: str, look: str, words: str
) -> None:
    root = photo_folder(count=100)
    program = [sys.executable, "-c", LOADING, str(root), look]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", SMALL_MEMORY, room, *program],
        env=environment(VITLIT_CACHE=os.environ["VITLIT_CACHE"]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert words in done.stderr
    assert (done.returncode == 0) == (not look)
    if not look:
        assert done.stdout == "True\n"
