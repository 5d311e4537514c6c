"""Folders decoded once, into files that processes and runs share.

FileImages -> a memory-mapped .npy, uint8 (n, C, h, w) -> MemoryImages

Caches lie in ``$VITLIT_CACHE/decoded``, by default ``~/.cache/vitlit/decoded``, and may be deleted
at any time. A cache is named by its folder and settings, and by a key: a hash of the path, size
and modification time of every file. This is the rule of make and rsync: a file whose pixels
change while its size and time stay the same is not noticed.
"""

import logging
import os
import shutil
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vitlit.readers import FileImages, MemoryImages

FORMAT = 1  # to be raised when files are decoded or stored differently
SPARE = 64 * 2**20  # bytes to leave free on the disk
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where decoded folders lie."""
    home = os.environ.get("VITLIT_CACHE") or "~/.cache/vitlit"
    return Path(home).expanduser() / "decoded"


def open_decoded(images: FileImages, root: Path) -> MemoryImages:
    """The images of a folder from its cache, which is built where it is missing or outdated.

    root: the folder that ``images.paths`` lie below. Where the cache cannot be written, the
    images are decoded into memory, and a sentence says so.
    """
    folder = cache_folder()
    family = _family(images, root)
    path = folder / f"{family}-{_key(images, root)}.npy"
    pixels = _map(path, images.shape)
    if pixels is None:
        try:
            pixels = _build_once(path, family, images)
        except OSError as error:  # from the cache: what is wrong with an image is an InputError
            reason = error.strerror or error
            _say(f"cannot keep decoded images in {folder}: {reason}; decoding them into memory")
            return images.decode_all()
    return MemoryImages(pixels, images.labels)


def _digest(text: str) -> str:
    return blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()


def _family(images: FileImages, root: Path) -> str:
    """What caches of the same folder and settings share: only the newest of them is kept."""
    return _digest(f"{root.absolute()}\0{images.shape[1:]}")


def _key(images: FileImages, root: Path) -> str:
    """Hash of all that decides the pixels: format, settings, and the files in their order."""
    start = len(str(root)) + 1
    lines = [f"{FORMAT}\0{images.shape}"]
    for path in images.paths:
        try:
            found = os.stat(path)  # noqa: PTH116 - a Path for each file costs as much again
        except OSError:  # decoding will name the file
            lines.append(path[start:])
        else:
            lines.append(f"{path[start:]}\0{found.st_size}\0{found.st_mtime_ns}")
    return _digest("\n".join(lines))


def _map(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The pixels in a cache; None where it is missing or not what it should be.

    Copy on write: whoever changes the tensor changes memory of its own, never the file.
    """
    try:
        pixels = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if pixels.dtype != np.uint8 or pixels.shape != shape or not pixels.flags.c_contiguous:
        return None
    return torch.from_numpy(pixels)


def _build_once(path: Path, family: str, images: FileImages) -> Tensor:
    """Build the cache, or wait for the process that is at it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    lock = _lock(path.parent, family)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say("another process is decoding these images; waiting for it")
        lock.acquire()
    try:
        pixels = _map(path, images.shape)
        if pixels is None:
            _build(path, family, images)
            pixels = _map(path, images.shape)
    finally:
        lock.release()
    if pixels is None:
        raise OSError(f"{path.name} cannot be read back")
    return pixels


def _build(path: Path, family: str, images: FileImages) -> None:
    """Write the cache beside its place, then move it there: a cache is whole or is not there."""
    free = shutil.disk_usage(path.parent).free
    if images.nbytes + SPARE > free:
        raise OSError(f"{images.nbytes / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")
    part = path.with_name(f"{family}-{os.getpid()}.tmp")
    header = {"descr": "|u1", "fortran_order": False, "shape": images.shape}
    try:
        with part.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            images.decode(lambda chunk: file.write(chunk.numpy().data))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    for old in path.parent.glob(f"{family}-*.npy"):
        if old != path:
            with suppress(OSError):  # Windows keeps what a reader has mapped
                old.unlink()


def _lock(folder: Path, family: str) -> FileLock:
    return FileLock(folder / f"{family}.lock")


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left: unfinished caches whose lock nobody holds."""
    for part in folder.glob("*.tmp"):
        lock = _lock(folder, part.name.split("-")[0])
        with suppress(Timeout, OSError), lock.acquire(timeout=0):
            part.unlink()


def _say(text: str) -> None:
    """One line on stderr from each machine, however many processes run there."""
    rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
    if rank == "0":
        _log.warning("vitlit: %s", text)
