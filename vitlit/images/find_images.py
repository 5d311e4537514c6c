"""Finding image files: which names are images, and which of them lie below a folder.

files and folders -> paths of image files, sorted within each folder
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path

from vitlit.errors import InputError
from vitlit.files import RUNS_FOLDER, expanded, is_output, printable

# Endings that are read: those of image_io.IMAGE_FORMATS.
EXTENSIONS = (
    ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
# Endings of images that are not read. They are counted and named, because a folder of photographs
# from a phone (.heic) would otherwise seem empty.
UNREAD_EXTENSIONS = (
    ".avif", ".eps", ".exr", ".heic", ".heif", ".ico", ".jp2", ".jxl",
    ".psd", ".svg", ".tga", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".raw",
)  # fmt: skip
# What people call the parts of a data set. Beside "train" a folder "valid" would be ignored
# silently, and without "train" it would become a class.
PART_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


# sets: a folder may hold a million names, and looking through a tuple takes three times as long
READ, KNOWN = frozenset(EXTENSIONS), frozenset(EXTENSIONS + UNREAD_EXTENSIONS)
BY_NAME = attrgetter("name")


def is_image_name(name: str) -> bool:
    """Whether a file name is that of an image, read or not; hidden files are no images."""
    return _ending(name) in KNOWN and name[0] != "."


def _ending(name: str) -> str:
    """What follows the last dot, with the dot, in small letters."""
    return name[name.rfind(".") :].lower()


def is_foreign(folder: str) -> bool:
    """Whether a folder holds no images of the user: hidden, or written by a program."""
    name = Path(folder).name
    # __MACOSX: archives packed on a Mac; @eaDir: thumbnails of Synology network drives
    is_named_so = name.startswith(".") or name in ("__MACOSX", "@eaDir", RUNS_FOLDER)
    return is_named_so or is_output(folder)


def is_loop(folder: str, around: tuple[str, ...]) -> bool:
    """Whether a link leads back to a folder that contains it, or above.

    around: the real paths of the folders that contain the link.
    """
    # With a separator at the end, so that /data/cat is not taken for a parent of /data/cats.
    real = os.path.realpath(folder).rstrip(os.sep) + os.sep
    return any((other + os.sep).startswith(real) for other in around)


def list_images(folder: str | Path, unread: list[str] | None = None) -> list[str]:
    """Paths of the image files below a folder, sorted, without hidden files and folders.

    Folders in it that our own commands wrote are left out too: their figures are no images of the
    user. Links to folders are followed unless they lead back. Images with ``UNREAD_EXTENSIONS`` are
    left out and appended to the list ``unread``. Raises InputError if a folder cannot be listed.
    """
    found = list(_walk_images(str(folder), (os.path.realpath(folder),)))
    read = [path for path in found if _ending(path) in READ]
    if unread is not None and len(read) < len(found):
        unread += [path for path in found if _ending(path) not in READ]
    return read


def _walk_images(folder: str, around: tuple[str, ...]) -> Iterator[str]:
    """Image files of a folder, then of its folders; around: real paths of it and its parents."""
    # os.scandir, not Path.rglob: it tells files from folders without a call for each file.
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=BY_NAME)
    except OSError as error:  # its images would be left out silently
        reason = f"cannot list the folder {folder}: {error.strerror}; check its permissions"
        raise InputError(reason) from error
    folders = []
    for entry in entries:
        if _is_folder(entry):
            folders.append(entry)
        elif is_image_name(entry.name):
            yield f"{folder}{os.sep}{entry.name}"
    for entry in folders:
        path = f"{folder}{os.sep}{entry.name}"
        if not (is_foreign(path) or (entry.is_symlink() and is_loop(path, around))):
            yield from _walk_images(path, (*around, os.path.realpath(path)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: reading it will give the reason
        return False


def find_images(
    paths: Iterable[str], unread: list[str] | None = None, *, argument: str = "images"
) -> list[str]:
    """Image files that are given by name, or lie below the folders among ``paths``.

    Files that are given by name may have any ending. unread: see list_images; argument: the
    argument that ``paths`` come from. Raises InputError for a missing path and for a folder
    without images.
    """

    def expand(path: Path) -> Iterator[str]:
        if path.is_dir():
            others: list[str] = []
            found = list_images(path, others)
            if not found:
                more = f"; known extensions: {' '.join(EXTENSIONS)}"
                if others:
                    example = printable(others[0])
                    more += (
                        f"; it has {len(others)} of other formats, such as {example}: convert them"
                    )
                raise InputError(f"no images in {path}{more}")
            if unread is not None:
                unread.extend(others)
            yield from found
        elif path.is_file():
            yield str(path)
        else:
            raise InputError(f"no such file or folder: {path}; check {argument}", argument=argument)

    return [file for path in paths for file in expand(expanded(path))]


def file_inside(name: str | None, data_dir: Path, place: str) -> Path:
    """An existing file below data_dir, from which the cache takes its path.

    place: where it is named, for messages. Raises InputError for other files.
    """
    path = Path(name) if name and name.strip() else None
    shown = printable(str(data_dir / (path or "")))
    if path is not None and path.is_absolute():
        is_below = path.is_relative_to(data_dir)
        way = printable(str(path.relative_to(data_dir))) if is_below else "it as it is below there"
        raise InputError(
            f"{place}: {shown} is an absolute path; paths are relative to data_dir {data_dir}, so "
            f"write {way}",
            argument="data_dir",
        )
    if path is None or ".." in path.parts:
        raise InputError(
            f"{place}: {name!r} is not a file below data_dir {data_dir}", argument="data_dir"
        )
    if not (data_dir / path).is_file():
        for form in ("NFC", "NFD"):  # of Macs and of others, which look the same
            if (data_dir / unicodedata.normalize(form, str(path))).is_file():
                raise InputError(
                    f"{place}: no file {shown}, but one whose name looks the same, in another "
                    f"Unicode form ({form}); write its name in that form"
                )
        # what is read as UTF-8 and is none, as Excel writes it, has lone surrogates
        is_utf8 = not any("\ud800" <= character <= "\udfff" for character in str(path))
        way = "check data_dir" if is_utf8 else "save the table as UTF-8"
        raise InputError(f"{place}: no file {shown}; {way}", argument="data_dir")
    return data_dir / path
