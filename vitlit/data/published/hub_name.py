"""How data sets of the hub are named: ``hub:OWNER/NAME``, and which folder they are unpacked to.

hub:OWNER/NAME:SUBSET@REVISION, or hub:FOLDER, and columns -> folder below data_dir
"""

import os
import re
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from vitlit.data.published.index import INDEX_FILE
from vitlit.errors import InputError
from vitlit.files import expanded

HUB = "hub:"  # begins the name of such a data set
UNPACKED_FOLDER = "hub"  # below data_dir
# What the hub allows in the name of a repository; an owner may be missing, as for "mnist".
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_hub(dataset: object) -> bool:
    """Whether this is the name of a data set of the hub."""
    return isinstance(dataset, str) and dataset.startswith(HUB)


@dataclass(frozen=True)
class HubName:
    """A data set of the hub, or one in the hub's formats on this machine, and what is read of it.

    source: OWNER/NAME, or the absolute path of a folder; subset: of a set that has several;
    revision: a commit, branch or tag, None for the newest one, or the one that is unpacked;
    image_column, label_column: None if there is one candidate.
    """

    source: str
    subset: str | None = None
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return os.path.isabs(self.source)  # noqa: PTH117 - a name is no Path

    def __str__(self) -> str:
        if self.is_local:
            return f"{HUB}{self.source}"
        subset = f":{self.subset}" if self.subset else ""
        return f"{HUB}{self.source}{subset}{f'@{self.revision}' if self.revision else ''}"

    def at(self, revision: str | None) -> "HubName":
        """The same set at a revision."""
        return replace(self, revision=revision)

    def in_folder(self, folder: Path) -> "HubName":
        """The same set at the revision that it was unpacked at, if the folder is one of its."""
        stem, _, revision = folder.name.partition("@")
        is_its = folder.parent.name == UNPACKED_FOLDER and stem == self._stem
        return self.at(revision) if is_its and not self.revision else self

    @property
    def _stem(self) -> str:
        """The name of its folders, without the revision."""
        what = (self.source, self.subset, self.image_column, self.label_column)
        digest = blake2b("\0".join(map(str, what)).encode(), digest_size=4).hexdigest()
        last = Path(self.source).name if self.is_local else self.source.replace("/", "--")
        return f"{_safe(last)}-{digest}"

    def base(self, data_dir: Path) -> Path:
        """The folder that holds the unpacked sets; data_dir may be one of them."""
        is_one = data_dir.parent.name == UNPACKED_FOLDER and "@" in data_dir.name
        return data_dir.parent if is_one else data_dir / UNPACKED_FOLDER

    def folder(self, data_dir: Path) -> Path:
        """Where this revision is unpacked to."""
        return self.base(data_dir) / f"{self._stem}@{_safe(self.revision or '')}"

    def lock(self, data_dir: Path) -> Path:
        """The file that only one process at a time holds while it unpacks."""
        return self.base(data_dir) / f".{self._stem}.lock"

    def unpacked(self, data_dir: Path) -> Path | None:
        """The folder of this set that is there already, the newest if no revision is asked for."""
        if self.revision:
            folder = self.folder(data_dir)
            return folder if (folder / INDEX_FILE).is_file() else None
        found = [*self.base(data_dir).glob(f"{self._stem}@*/{INDEX_FILE}")]
        newest = max(found, key=lambda file: file.stat().st_mtime_ns, default=None)
        return None if newest is None else newest.parent


def _safe(name: str) -> str:
    """A name that a folder can have on every system."""
    return re.sub(r"[^\w.-]+", "-", name)[:80]


def parse_hub_name(
    dataset: str, image_column: str | None = None, label_column: str | None = None
) -> HubName:
    """The parts of ``hub:OWNER/NAME:SUBSET@REVISION`` or ``hub:FOLDER``.

    A folder is one if the text after ``hub:`` is a path that begins with ``/``, ``.`` or ``~``, or
    that exists. Raises InputError for any other text that is no name of the hub's.
    """
    text = dataset.removeprefix(HUB)
    columns = {"image_column": image_column, "label_column": label_column}
    if text.startswith(("/", ".", "~")) or (text and Path(text).is_dir()):
        folder = expanded(text).absolute()
        return HubName(os.path.normpath(folder), **columns)  # it may be gone once it is unpacked
    name, _, revision = text.partition("@")
    source, _, subset = name.partition(":")
    if not REPOSITORY.fullmatch(source):
        raise InputError(
            f"{dataset!r} names no data set of the hub; write hub:OWNER/NAME, with :SUBSET or "
            f"@REVISION after it if need be, or hub: and the path of a folder",
            argument="dataset",
        )
    return HubName(source, subset or None, revision or None, **columns)
