"""Where shards lie, and reading parts of them: local files, or whatever fsspec reaches by a URL.

spans (where, start, stop) -> their bytes

A URL is read by ranges: what a batch needs, in one go, and never a whole shard.
"""

import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from vitlit.errors import InputError
from vitlit.files import expanded, printable, relative_path

# fsspec knows more, among them some that run or unpack what a name says
SCHEMES = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "hf")
URL = re.compile(r"([a-z][a-z0-9]+):/+(.*)", re.DOTALL)
OPEN_FILES = 64  # of a process; sets may have more shards than a process may open
WAITS = (1, 5, 20)  # seconds before another try: networks fail for a moment
HTTP_SECONDS = 120  # for one answer, so that no training waits for ever
MAX_SMALL_BYTES = 2**30  # of an index or a list, which are read whole
Found = TypeVar("Found")


class Span(NamedTuple):
    """The bytes ``start`` to ``stop`` of a file."""

    where: str
    start: int
    stop: int


class Stamp(NamedTuple):
    """What tells a file from a newer one under its name: its size in bytes, and its time or tag."""

    size: int
    version: str


def is_url(place: str | Path) -> bool:
    """Whether a place is no path on this machine."""
    return URL.fullmatch(str(place)) is not None


def place_of(text: str | Path) -> Path:
    """A path, absolute; that of a URL stays relative and has one slash less: see place_text."""
    return Path(text) if is_url(text) else expanded(text).absolute()


def place_text(place: Path) -> str:
    """What the user gave as a place: Path drops the second slash of https://."""
    found = URL.fullmatch(str(place))
    return f"{found[1]}://{found[2]}" if found else str(place)


def shown_place(place: Path) -> str:
    """A place for a message: relative to the current folder if it is below that."""
    return place_text(place) if is_url(place) else relative_path(place)


def _reach(where: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it."""
    scheme = where.partition("://")[0]
    if scheme not in SCHEMES:
        raise InputError(
            f"{printable(where)}: URLs of {scheme}:// are not read; known: {', '.join(SCHEMES)}",
            argument="data_dir",
        )
    options: dict[str, Any] = {}
    try:
        import fsspec

        if scheme.startswith("http"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=HTTP_SECONDS)
            options = {"client_kwargs": {"timeout": timeout}}
        found: tuple[Any, str] = fsspec.core.url_to_fs(where, **options)
    except ImportError as error:
        raise InputError(
            f"cannot read {printable(where)}: {error}; pip install 'vitlit[shards]' reads http "
            f"and https, s3:// needs the package s3fs, gs:// gcsfs",
            argument="data_dir",
        ) from error
    return found


def _retried(where: str, work: Callable[[], Found]) -> Found:
    """The result of ``work``, tried again if the network fails; InputError if it goes on failing.

    FileNotFoundError is for the caller.
    """
    for wait in (*WAITS, None):
        try:
            return work()
        except (InputError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # each kind of network has its own
            if wait is None:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise InputError(
                    f"cannot read {printable(where)}: {reason}; check the network and data_dir",
                    argument="data_dir",
                ) from error
            time.sleep(wait)
    raise AssertionError


def stamp_of(where: str) -> Stamp:
    """Size and version of a file. Raises InputError if there is none."""
    try:
        if not is_url(where):
            found = os.stat(where)  # noqa: PTH116 - thousands of shards
            return Stamp(found.st_size, str(found.st_mtime_ns))
        fs, path = _reach(where)
        about: dict[str, Any] = _retried(where, lambda: fs.info(path))
    except OSError as error:
        raise InputError(
            f"cannot read the shard {printable(where)}: {error.strerror or 'not found'}; check "
            f"data_dir",
            argument="data_dir",
        ) from error
    if about.get("size") is None:
        raise InputError(
            f"the server of {printable(where)} does not tell its size; copy the shards to a disk",
            argument="data_dir",
        )
    marks = ("ETag", "etag", "Last-Modified", "LastModified", "mtime", "last_modified", "md5Hash")
    version = next((str(about[mark]) for mark in marks if about.get(mark)), "")
    return Stamp(int(about["size"]), version)


def read_small(where: str) -> bytes | None:
    """A whole file; None if it does not exist."""
    try:
        if not is_url(where):
            if os.stat(where).st_size > MAX_SMALL_BYTES:  # noqa: PTH116 - thousands of shards
                raise InputError(f"{printable(where)} is too large to be an index; remove it")
            return Path(where).read_bytes()
        fs, path = _reach(where)
        content: bytes = _retried(where, lambda: fs.cat_file(path, end=MAX_SMALL_BYTES))
        return content
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {printable(where)}: {error.strerror or error}") from error


def open_stream(where: str) -> Any:
    """A file for reading from its start to its end."""
    if not is_url(where):
        return Path(where).open("rb")
    fs, path = _reach(where)
    # large blocks one after the other: what is read once needs no other cache
    return _retried(where, lambda: fs.open(path, "rb", block_size=2**23, cache_type="readahead"))


class SpanReader:
    """Reads spans of files, which stay open; threads may share it, and forked processes too."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, FileIO] = OrderedDict()
        self._lock, self._process = Lock(), os.getpid()

    def __reduce__(self) -> Any:
        return SpanReader, ()  # a spawned process opens the files itself

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def read(self, spans: Sequence[Span]) -> list[memoryview]:
        """The bytes of each span; fewer than asked for where a file ends before."""
        far = [span for span in spans if is_url(span.where)]
        if not far:
            return [memoryview(self._read_near(span)) for span in spans]
        assert len(far) == len(spans)  # a set lies in one place
        fs, _ = _reach(far[0].where)
        paths = [_reach(span.where)[1] for span in far]
        starts, stops = [span.start for span in far], [span.stop for span in far]
        try:
            found = _retried(
                far[0].where, lambda: fs.cat_ranges(paths, starts, stops, on_error="raise")
            )
        except OSError as error:
            raise InputError(
                f"cannot read {printable(far[0].where)}: {error}; check data_dir",
                argument="data_dir",
            ) from error
        return [memoryview(bytearray(content)) for content in found]

    def _read_near(self, span: Span) -> bytearray:
        if self._process != os.getpid():  # forked: the parent's place in a file would be shared
            self._lock, self._process = Lock(), os.getpid()  # the lock may be held in the parent
            self._close()
        content = bytearray(span.stop - span.start)
        try:
            with self._lock:
                file = self._opened(span.where)
                file.seek(span.start)
                view, count = memoryview(content), 0
                while count < len(content) and (more := file.readinto(view[count:])):
                    count += more  # network drives may give fewer at once
        except OSError as error:
            raise InputError(
                f"cannot read the shard {printable(span.where)}: {error.strerror or error}; check "
                f"its disk",
                argument="data_dir",
            ) from error
        view.release()
        del content[count:]
        return content

    def _opened(self, where: str) -> FileIO:
        if where not in self._files:
            self._files[where] = FileIO(where)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(where)
        return self._files[where]
