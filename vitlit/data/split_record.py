"""Split records: which images a training was given and which it held out, kept in its checkpoint.

paths, members of the splits -> {split: int64 (n, 2)} -> which images may be scored or trained on

A row holds the hashes of an image's path and of its file. The path tells an image whose file was
written anew; the file tells one that was renamed. An image to which both happened is taken for a
new one, which is never scored, unless its new name is one that was held out.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitlit.data.shards.shard_images import ShardImages
from vitlit.data.stratify import path_hashes
from vitlit.images.image_bytes import file_hash
from vitlit.images.image_store import Images, file_paths

RECORD_KEY = "ImageData"  # where Lightning puts the state of a data module: the name of its class
SplitRecord = Mapping[str, Tensor]
PATH, FILE = 0, 1  # columns of a record
FILES_OF_A_TASK = 256  # of a thread: handing over costs more than hashing a small file
SAME_SHARE = 0.1  # of the images that a training knows, from which a folder is that of the training
NO_IMAGES = torch.empty(0, 2, dtype=torch.long)


def file_hashes(paths: Sequence[str]) -> Tensor:
    """Hash of the size, the start and the end of each file: int64 ``(n,)``."""
    parts = [paths[i : i + FILES_OF_A_TASK] for i in range(0, len(paths), FILES_OF_A_TASK)]
    with ThreadPoolExecutor() as pool:  # threads: on network drives each file is a wait
        found = [value for values in pool.map(_hash_each, parts) for value in values]
    return torch.tensor(found, dtype=torch.long)


def _hash_each(paths: Sequence[str]) -> list[int]:
    return [file_hash(path) for path in paths]


def image_file_hashes(images: Images, members: Tensor) -> Tensor:
    """Hash of the file of each of these members: int64 ``(n,)``. Those of shards are kept there."""
    if isinstance(images, ShardImages):
        return images.file_hashes[members]
    paths = file_paths(images)
    return file_hashes([paths[i] for i in members.tolist()])


def image_path_hashes(images: Images, data_dir: Path) -> Tensor:
    """Hash of the path of each image, int64 ``(n,)``: in shards as in their folder."""
    if isinstance(images, ShardImages):
        return images.name_hashes()
    return path_hashes(file_paths(images), data_dir)


def make_record(
    hashes: Tensor, files: Tensor, splits: Mapping[str, Tensor], before: SplitRecord
) -> dict[str, Tensor]:
    """The record of a training.

    hashes, files: of the paths and of the files ``(n,)``; splits: members of each; before: the
    record of the training that it resumes, whose images it was trained on as well.
    """
    rows = torch.stack([hashes, files], dim=1)
    found = {name: rows[members] for name, members in splits.items()}
    held = torch.cat([NO_IMAGES, *(found[name] for name in found if name != "train")])
    # A copy of a held-out image that was there all along says nothing about a renamed one.
    found["train"][torch.isin(found["train"][:, FILE], held[:, FILE]), FILE] = 0
    both = torch.cat([found["train"], before.get("train", NO_IMAGES)])
    found["train"] = unique_rows(both)
    return found


def unique_rows(rows: Tensor) -> Tensor:
    """``torch.unique(rows, dim=0)`` of rows ``(n, 2)``, which takes twenty times as long."""
    for column in (FILE, PATH):  # stable, so rows of one path stay ordered by file
        rows = rows[rows[:, column].argsort(stable=True)]
    is_new = torch.ones(len(rows), dtype=torch.bool)
    is_new[1:] = (rows[1:] != rows[:-1]).any(dim=1)
    return rows[is_new]


def record_of(content: Mapping[str, Any]) -> SplitRecord:
    """The record in a checkpoint; empty for those of earlier versions and of published splits."""
    kept = content.get(RECORD_KEY)
    if not isinstance(kept, dict) or not {"train", "val"} <= kept.keys():
        return {}
    # A file may hold anything under the key.
    is_sound = all(
        isinstance(rows, Tensor) and rows.dtype == torch.long and rows.shape[1:] == (2,)
        for rows in kept.values()
    )
    return kept if is_sound else {}


def is_same_data(record: SplitRecord, files: Tensor) -> bool:
    """Whether files with these hashes ``(n,)`` come from the folder of the training."""
    return bool(_has_file(torch.cat([*record.values()]), files).float().mean() >= SAME_SHARE)


def _has_file(rows: Tensor, files: Tensor) -> Tensor:
    """Whether rows ``(m, 2)`` have files with these hashes: bool ``(n,)``.

    0 tells nothing: it stands for a file that could not be read, and for copies.
    """
    return torch.isin(files, rows[:, FILE]) & (files != 0)


def was_trained_on(record: SplitRecord, hashes: Tensor, files: Tensor, *, same: bool) -> Tensor:
    """Whether a training used the images: bool ``(n,)``.

    hashes, files: of paths and files ``(n,)``; same: whether equal paths mean equal images.
    """
    seen = _has_file(record["train"], files)
    return seen | torch.isin(hashes, record["train"][:, PATH]) if same else seen


def was_held_out(record: SplitRecord, name: str, hashes: Tensor) -> Tensor:
    """Whether images with these paths were in the split ``name``, val or test: bool ``(n,)``.

    One with an unknown path was not: it may be a training image, renamed and saved anew.
    """
    return torch.isin(hashes, record.get(name, NO_IMAGES)[:, PATH])


def may_be_trained_on(record: SplitRecord, hashes: Tensor, files: Tensor, *, same: bool) -> Tensor:
    """Whether a training that goes on may use the images: bool ``(n,)``, none that it held out."""
    held = torch.cat([rows for name, rows in record.items() if name != "train"])
    known = torch.isin(hashes, record["train"][:, PATH]) if same else torch.zeros(len(hashes)) > 0
    # The file of a known image may have been replaced by that of another: its name decides.
    free = known | ~_has_file(held, files)
    return free & ~torch.isin(hashes, held[:, PATH]) if same else free


class Changes(NamedTuple):
    """How many images were added to a folder since a training, are gone, and have other files."""

    added: int
    gone: int
    rewritten: int

    def __str__(self) -> str:
        return (
            f"since the training: {self.added} images added, {self.gone} gone, {self.rewritten} "
            f"with other files"
        )


def changes_since(record: SplitRecord, hashes: Tensor, members: Tensor, files: Tensor) -> Changes:
    """What has changed in the folder of a training.

    hashes: of all paths ``(n,)``; members: the images ``(m,)`` whose files are compared; files:
    the hashes of these.
    """
    rows = torch.cat([*record.values()])
    known, own = torch.unique(rows[:, PATH]), hashes[members]
    # 0 tells nothing of a file, and one path may have had several
    is_told = ~torch.isin(own, rows[rows[:, FILE] == 0, PATH]) & (files != 0)
    is_same = torch.isin(_as_one(own, files), _as_one(rows[:, PATH], rows[:, FILE]))
    return Changes(
        added=int((~torch.isin(hashes, known)).sum()),
        gone=int((~torch.isin(known, hashes)).sum()),
        rewritten=int((torch.isin(own, known) & is_told & ~is_same).sum()),
    )


def _as_one(hashes: Tensor, files: Tensor) -> Tensor:
    """One hash for a path and a file; products of int64 wrap around."""
    return hashes * 0x1E3779B97F4A7C15 + files
