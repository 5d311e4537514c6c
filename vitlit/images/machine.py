"""What this process may use of the machine: processors, and memory that processes share.

system, its limits for this process -> number of processors; free bytes
"""

import ctypes
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")  # where Linux shows the limits of containers and jobs
SHARED_MEMORY = Path("/dev/shm")  # where torch keeps the tensors that one process sends to another
# The GNU C library's allocator: mallopt's names for its two thresholds, in bytes, and the variables
# by which users set them.
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
KEPT_BLOCKS = (1 << 30, 1 << 25)  # the largest blocks to keep; versions before 2.35 take up to 2^25
KEPT_BYTES = (1 << 31) - 1  # of all that is free; what is above goes back
ALLOCATOR_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let this process reuse freed memory instead of giving it back to Linux at once.

    By default the GNU C library gives back every large tensor. The next one of that size is made of
    new pages, which Linux zeroes one by one: that took 35 % of the time of a ViT-S/16 on 128 images
    in bfloat16, and 21 % on 64. Other C libraries, and users who chose their own thresholds, keep
    theirs.
    """
    if sys.platform != "linux" or any(name in os.environ for name in ALLOCATOR_VARIABLES):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and any(mallopt(MMAP_THRESHOLD, size) for size in KEPT_BLOCKS):
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def usable_cpus(groups: Path = CONTROL_GROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Processors that this process may use, at least 1.

    A machine may have many more: a job scheduler binds processes to some of them, and a container
    has a quota of their time. groups: where control groups are mounted; own: says which is ours.
    """
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        count = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):  # neither macOS nor Windows has it
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    quota = _time_quota(groups, own)
    return max(1, min(count or 1, int(quota + 0.5) if quota else count or 1))


def _time_quota(groups: Path, own: Path) -> float | None:
    """How many processors' time the control groups allow; None without a limit."""
    names = [""]  # in a container our own group is mounted as the root
    with suppress(OSError):
        # lines such as 0::/system.slice/job.scope, and 4:cpu,cpuacct:/job in the older version
        names += [line.split(":", 2)[-1] for line in own.read_text(encoding="utf-8").splitlines()]
    found = []
    for name in names:
        folder = Path(name.strip("/"))
        for group in (folder, *folder.parents):  # a limit of any group above counts too
            found += [_quota_of(groups / group), _quota_of(groups / "cpu" / group)]
    return min((quota for quota in found if quota), default=None)


def _quota_of(group: Path) -> float | None:
    """The quota of one control group, in either version of their files."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (file := group / "cpu.max").exists():  # "max 100000", or microseconds in microseconds
            quota, period = file.read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{part}_us").read_text(encoding="utf-8").strip()
                for part in ("quota", "period")
            )
        found = float(quota) / float(period)
        return found if 0 < found < float("inf") else None  # -1: no limit
    return None


def memory_bytes() -> int | None:
    """Memory of the machine; None if the system does not tell (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def shared_memory_room() -> int | None:
    """Free bytes of the memory through which processes pass tensors; None if it has no limit."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # macOS and Windows have no such folder
        return None
