"""What this process may use: processors bound or limited by a quota, and shared memory."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vitlit.images import machine


def group(root: Path, name: str, **files: str) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (root / name / file.replace("__", ".", 1)).write_text(text)


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 processors, of which this process may use 16."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 16, raising=False)


@pytest.mark.usefixtures("many")
def test_processors_are_those_that_the_process_is_bound_to(tmp_path: Path) -> None:
    assert machine.usable_cpus(tmp_path, tmp_path / "none") == 16


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu__max": "200000 100000\n"}, 2),  # docker run --cpus 2
        ({"cpu__max": "150000 100000\n"}, 2),
        ({"cpu__max": "50000 100000\n"}, 1),
        ({"cpu__max": "max 100000\n"}, 16),
        ({"cpu__max": "6400000 100000\n"}, 16),
        ({"cpu__max": "nonsense"}, 16),
    ],
)
def test_a_container_with_a_quota_has_as_many_processors_as_it_pays_for(
    files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    group(tmp_path, "", **files)
    assert machine.usable_cpus(tmp_path, tmp_path / "none") == expected


@pytest.mark.usefixtures("many")
def test_the_quota_of_a_job_counts_and_that_of_the_group_above_it(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/jobs/7\n")
    group(tmp_path, "jobs/7", cpu__max="400000 100000")
    assert machine.usable_cpus(tmp_path, own) == 4
    group(tmp_path, "jobs", cpu__max="300000 100000")
    assert machine.usable_cpus(tmp_path, own) == 3


@pytest.mark.usefixtures("many")
def test_a_quota_of_the_older_control_groups_counts(tmp_path: Path) -> None:
    group(tmp_path, "cpu", cpu__cfs_quota_us="300000\n", cpu__cfs_period_us="100000\n")
    assert machine.usable_cpus(tmp_path, tmp_path / "none") == 3
    group(tmp_path, "cpu", cpu__cfs_quota_us="-1\n")
    assert machine.usable_cpus(tmp_path, tmp_path / "none") == 16


def test_shared_memory_has_the_room_that_its_file_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path)
    found = os.statvfs(tmp_path)
    room = machine.shared_memory_room()
    assert room == pytest.approx(found.f_bavail * found.f_frsize, rel=0.05)
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    assert machine.shared_memory_room() is None


# -- freed memory -----------------------------------------------------------------------------

GNU = platform.libc_ver()[0] == "glibc"


# Prints the pages that Linux has to make for a tensor of 40 MB after some of that size were freed.
NEW_PAGES = """
import resource, torch
from vitlit.images.machine import keep_freed_memory
keep_freed_memory()
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
found = []
for _ in range(40):  # a freed block may be a few bytes short for the next, but some make one
    before = pages()
    torch.ones(40, 1 << 20, dtype=torch.uint8)
    found.append(pages() - before)
print(min(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not GNU, reason="other C libraries have no such thresholds")
def test_freed_memory_is_used_again() -> None:
    # in a process of its own: where other tests have left blocks decides whether one is reused
    words = [sys.executable, "-c", NEW_PAGES]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 100  # of 10,240


class Allocator:
    """A C library whose mallopt takes thresholds up to ``largest`` bytes, and notes them."""

    def __init__(self, largest: int) -> None:
        self.largest, self.taken = largest, dict[int, int]()

    def mallopt(self, name: int, value: int) -> int:
        if name == machine.MMAP_THRESHOLD and value > self.largest:
            return 0
        self.taken[name] = value
        return 1


@pytest.mark.parametrize(("largest", "expected"), [(1 << 40, 1 << 30), (1 << 25, 1 << 25)])
def test_old_c_libraries_get_the_largest_threshold_that_they_take(
    monkeypatch: pytest.MonkeyPatch, largest: int, expected: int
) -> None:
    library = Allocator(largest)
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: library)
    machine.keep_freed_memory()
    assert library.taken == {-3: expected, -1: (1 << 31) - 1}  # malloc.h's M_MMAP_…, M_TRIM_…


@pytest.mark.parametrize(
    ("platform", "variable", "library"),
    [
        ("darwin", "UNRELATED", Allocator(1 << 40)),
        ("linux", "MALLOC_TRIM_THRESHOLD_", Allocator(1 << 40)),
        ("linux", "GLIBC_TUNABLES", Allocator(1 << 40)),
        ("linux", "UNRELATED", object()),  # musl
    ],
)
def test_other_c_libraries_and_chosen_thresholds_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, platform: str, variable: str, library: Any
) -> None:
    monkeypatch.setattr(machine.sys, "platform", platform)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: library)
    monkeypatch.setenv(variable, "glibc.malloc.trim_threshold=1")
    machine.keep_freed_memory()
    assert getattr(library, "taken", {}) == {}
