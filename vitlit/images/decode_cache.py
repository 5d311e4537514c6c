"""The cache of decoded images: folders are decoded once, for all processes and later runs.

FileImages -> a memory-mapped .npy, uint8 (rows, C, h, w) -> MemoryImages

Files that cannot be read have no row; a .json beside the .npy lists them with the reasons. Sets
that are too large for memory have only that list.

Caches lie in ``$VITLIT_CACHE/decoded``, by default ``~/.cache/vitlit/decoded``, and may be deleted
at any time. The name of a cache holds a hash of its folder and settings, and a key: a hash of the
path, size and modification time of every file. This is the rule of make and rsync: a change of
pixels that keeps the size and the time of a file is not noticed.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vitlit.errors import say
from vitlit.files import acquire_aloud, expanded, replacing
from vitlit.images.framing import PLAIN_FRAMING
from vitlit.images.image_io import ImageInputError, check_image_file
from vitlit.images.image_store import BadFile, FileImages, MemoryImages

CACHE_FORMAT = 3  # raise it when files are decoded or stored differently: old caches become invalid
SPARE_BYTES = 64 * 2**20  # to leave free on the disk


def cache_folder() -> Path:
    """The folder that holds the caches; it may not exist yet."""
    home = os.environ.get("VITLIT_CACHE") or "~/.cache/vitlit"
    return expanded(home) / "decoded"


def open_decoded(images: FileImages, root: Path, *, part: str = "") -> MemoryImages:
    """The images of a folder from its cache, which is built if it is missing or outdated.

    root: the folder that contains all of ``images.paths``; part: tells sets apart that lie in one
    folder, which would replace each other's caches. If the cache cannot be written, the
    images are decoded into memory and a message says so.
    """
    path = _cache_path(images, root, part)
    found = _open_cache(path, images)
    if found is None:
        try:
            with _only_builder(path):
                found = _open_cache(path, images)  # again: another process may have built it
                if found is None:
                    found = _build_cache(path, images)
        except OSError as error:  # of the cache alone: bad image files are listed, not raised
            reason = error.strerror or error
            say(f"cannot keep decoded images in {path.parent}: {reason}; decoding them into memory")
            return images.decode_all()
    return found


def open_checked(images: FileImages, root: Path, *, thorough: bool, part: str = "") -> FileImages:
    """The same images, with the list of those that cannot be read, which is kept in the cache.

    root, part: as for :func:`open_decoded`; thorough: whether every file is decoded once; otherwise
    only its size, header and last bytes are read.
    """
    path = _cache_path(images, root, part).with_suffix(".json")
    bad = _read_list(path, images, thorough=thorough)
    if bad is None:
        try:
            with _only_builder(path):
                bad = _read_list(path, images, thorough=thorough)
                if bad is None:
                    bad = _find_bad_images(images, thorough=thorough)
                    _write_list(path, bad, thorough=thorough)
                    _remove_older(path)
        except OSError as error:
            say(f"cannot keep the list of bad images in {path.parent}: {error.strerror or error}")
            bad = _find_bad_images(images, thorough=thorough) if bad is None else bad
    images.bad = bad
    return images


def _find_bad_images(images: FileImages, *, thorough: bool) -> list[BadFile]:
    """The files that cannot be read; decoded pixels are thrown away."""
    return images.decode(lambda chunk: None) if thorough else images.check()


def _cache_path(images: FileImages, root: Path, part: str = "") -> Path:
    """Where the decoded images are, or would be."""
    family = _cache_family(images, root, part)
    return cache_folder() / f"{family}-{_cache_key(images, root)}.npy"


def _digest(text: str) -> str:
    # surrogateescape: file names on Linux are bytes and need not be UTF-8
    return blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()


def _cache_family(images: FileImages, root: Path, part: str) -> str:
    """Hash of the folder and the settings; only the newest cache of a family is kept."""
    told = f"{root.absolute()}\0{images.shape[1:]}{_framing_words(images)}"
    return _digest(f"{told}\0{part}" if part else told)


def _framing_words(images: FileImages) -> str:
    """How the files are fitted; nothing for the usual way, whose caches stay valid."""
    return "" if images.framing == PLAIN_FRAMING else f"\0{images.framing}"


def _cache_key(images: FileImages, root: Path) -> str:
    """Hash of all that decides the pixels: format, settings, and the files in their order."""
    lines = [f"{CACHE_FORMAT}\0{images.shape}{_framing_words(images)}", *images.key_lines(root)]
    return _digest("\n".join(lines))


def _open_cache(path: Path, images: FileImages) -> MemoryImages | None:
    """The images in a cache; None if it is missing or does not fit the files."""
    bad = _read_list(path.with_suffix(".json"), images, thorough=True) or []
    pixels = _map_pixels(path, (len(images) - len(bad), *images.shape[1:]))
    return None if pixels is None else MemoryImages(pixels, images.labels, bad, images.paths)


def _map_pixels(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The pixels in a cache, uint8 of this shape; None if it is missing or holds anything else."""
    if shape[0] == 0:  # no file could be read, and no empty file can be mapped
        return torch.empty(shape, dtype=torch.uint8)
    # Copy on write ("c"): changing the tensor never changes the file. allow_pickle=False: a file in
    # the cache folder must not run code.
    try:
        pixels = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if pixels.dtype != np.uint8 or pixels.shape != shape or not pixels.flags.c_contiguous:
        return None
    return torch.from_numpy(pixels)


def _read_list(path: Path, images: FileImages, *, thorough: bool) -> list[BadFile] | None:
    """The bad files on the list; None if there is no valid list, or a less thorough one."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        if thorough and not noted["thorough"]:
            return None
        bad = [BadFile(i, images.paths[i], str(reason)) for i, reason in noted["bad"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    # permissions, a disk's faults and the room in memory change without a trace in the key
    return None if _is_any_mended(images, bad, thorough=thorough) else bad


def _is_any_mended(images: FileImages, bad: Sequence[BadFile], *, thorough: bool) -> bool:
    """Whether one of the files can be read now."""
    places = torch.tensor([file.place for file in bad], dtype=torch.long)
    if thorough:
        return len(images.read(places)[1]) < len(bad)
    for file in images.image_files(places):
        with suppress(ImageInputError):
            check_image_file(file)
            return True
    return False


def _write_list(path: Path, bad: Sequence[BadFile], *, thorough: bool) -> None:
    noted: Any = {"thorough": thorough, "bad": [(file.place, file.reason) for file in bad]}
    with replacing(path, part=_unfinished_path(path)) as part:
        part.write_text(json.dumps(noted), encoding="utf-8")


@contextmanager
def _only_builder(path: Path) -> Iterator[None]:
    """Hold the lock for building caches of these images; wait if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    # One lock per family, not per key: only the newest cache of a family is kept.
    lock = _cache_lock(path.parent, path.name.split("-")[0])
    acquire_aloud(lock, "reading these images")
    try:
        yield
    finally:
        lock.release()


def _build_cache(path: Path, images: FileImages) -> MemoryImages:
    """Write the cache under a temporary name, then rename it: a cache is complete or absent.

    Raises OSError if the disk has no room, or the cache cannot be read back.
    """
    free = shutil.disk_usage(path.parent).free
    if images.nbytes + SPARE_BYTES > free:
        raise OSError(f"{images.nbytes / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")
    with replacing(path, part=_unfinished_path(path), sync=True) as part:
        with part.open("wb") as file:
            _write_header(file, images.shape)
            bad = images.decode(lambda chunk: file.write(chunk.numpy().data))
            # The number of rows is known only now. NumPy pads headers, so a smaller number fits.
            file.seek(0)
            _write_header(file, (len(images) - len(bad), *images.shape[1:]))
        if bad:  # before the rename: without the list the pixels would not fit the files
            _write_list(path.with_suffix(".json"), bad, thorough=True)
    _remove_older(path)
    found = _open_cache(path, images)
    if found is None:
        raise OSError(f"{path.name} cannot be read back")
    return found


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    """The header of a .npy file, by hand: rows are appended as they are decoded."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _unfinished_path(path: Path) -> Path:
    """A temporary name, one for each process: family-PID.npy.tmp."""
    return path.with_name(f"{path.name.split('-')[0]}-{os.getpid()}{path.suffix}.tmp")


def _remove_older(path: Path) -> None:
    """Remove the caches of earlier states of the same folder."""
    for old in path.parent.glob(f"{path.name.split('-')[0]}-*.*"):
        if old.stem != path.stem and old.suffix in (".npy", ".json"):
            with suppress(OSError):  # Windows does not remove a file that a process has mapped
                old.unlink()


def _cache_lock(folder: Path, family: str) -> FileLock:
    return FileLock(folder / f"{family}.lock")


def _remove_leftovers(folder: Path) -> None:
    """Remove unfinished caches of killed processes: those whose lock nobody holds."""
    for part in folder.glob("*.tmp"):
        lock = _cache_lock(folder, part.name.split("-")[0])
        with suppress(Timeout, OSError), lock.acquire(timeout=0):
            part.unlink()
