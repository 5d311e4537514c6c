"""Processes that tests start: their programs, their environment, a free port."""

import os
import shutil
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

VITLIT = str(Path(sys.executable).parent / "vitlit")
TORCHRUN = str(Path(sys.executable).parent / "torchrun")


def environment(**changes: str) -> dict[str, str]:
    """Of a shell: without what a trainer of another test in this process left behind."""
    helpers = Path(__file__).parent
    own = os.pathsep.join(map(str, (helpers, helpers.parents[1])))
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": own, "CUDA_VISIBLE_DEVICES": ""}
    left = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
    inherited = {name: value for name, value in os.environ.items() if name not in left}
    return {**inherited, **quiet, **changes}


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


@cache
def can_mount() -> bool:
    """Whether this user may give a process small file systems of its own, by ``unshare -rm``."""
    if not shutil.which("unshare"):
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
