"""Finding image files: which names are images, and what lies below a folder.

files and folders -> paths of image files, sorted"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vitlit.errors import InputError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
UNREAD_EXTENSIONS: tuple[str, ...] = (
    ".avif",
    ".eps",
    ".exr",
    ".heic",
    ".heif",
    ".ico",
    ".jfif",
    ".jp2",
)
UNREAD_EXTENSIONS += (
    ".jxl",
    ".psd",
    ".svg",
    ".tga",
    ".arw",
    ".cr2",
    ".cr3",
    ".dng",
    ".nef",
    ".raw",
)


def is_image_name(name: str) -> bool:
    """Whether a file name looks like an image, of any kind; hidden files do not."""
    return name.lower().endswith(EXTENSIONS + UNREAD_EXTENSIONS) and not name.startswith(".")


def is_hidden(name: str) -> bool:
    """Whether a folder is none of the user's: hidden, or left by a Mac or a network drive."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def is_loop(folder: str, around: tuple[str, ...]) -> bool:
    """Whether a link leads back to one of the folders ``around`` it (real paths), or above."""
    real = os.path.realpath(folder).rstrip(os.sep) + os.sep
    return any((other + os.sep).startswith(real) for other in around)


def list_images(folder: str | Path, unread: list[str] | None = None) -> list[str]:
    """Image files below a folder, sorted, hidden files and folders left out.

    Links to folders are followed, but for those that lead back. Images of the kinds ``UNREAD``
    are not among them; they are added to the list ``unread``.
    """
    found = list(_walk(str(folder), (os.path.realpath(folder),)))
    if unread is not None:
        unread += [path for path in found if path.lower().endswith(UNREAD_EXTENSIONS)]
    return [path for path in found if path.lower().endswith(EXTENSIONS)]


def _walk(folder: str, around: tuple[str, ...]) -> Iterator[str]:
    """Files of a folder, then those below it; around: its real path, after those above it."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:  # images that are left out in silence would be missed later
        raise InputError(f"cannot list the folder {folder}: {error.strerror}; mend it") from error
    is_folder = [_is_folder(entry) for entry in entries]
    for entry, folded in zip(entries, is_folder, strict=True):
        if not folded and is_image_name(entry.name):
            yield f"{folder}{os.sep}{entry.name}"
    for entry, folded in zip(entries, is_folder, strict=True):
        if folded and not is_hidden(entry.name):
            path = f"{folder}{os.sep}{entry.name}"
            if not (entry.is_symlink() and is_loop(path, around)):
                yield from _walk(path, (*around, os.path.realpath(path)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: reading it will say so
        return False


def find_images(
    paths: Iterable[str], unread: list[str] | None = None, *, argument: str = "images"
) -> list[str]:
    """Image files named directly, or found below the folders among the paths.

    unread: see list_images; argument: which one the paths were given to.
    """

    def expand(path: Path) -> Iterator[str]:
        if path.is_dir():
            found = list_images(path, unread)
            if not found:
                raise InputError(f"no images in {path}; known endings: {' '.join(EXTENSIONS)}")
            yield from found
        elif path.is_file():
            yield str(path)
        else:
            raise InputError(f"no such file or folder: {path}; check {argument}", argument=argument)

    return [file for path in paths for file in expand(Path(path).expanduser())]
