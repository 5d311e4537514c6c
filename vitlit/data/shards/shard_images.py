"""The images of shards, in the place of a folder's: read by their offsets, a batch at a time.

indices (B,) -> spans of bytes, neighbours joined -> uint8 (B, C, h, w)
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from vitlit.data.shards.open_shards import has_numbers, numbers_of_labels, open_indexes
from vitlit.data.shards.places import Span, SpanReader, place_text
from vitlit.data.shards.shard_index import ShardIndex
from vitlit.data.shards.shard_list import ShardList
from vitlit.data.shards.tar_scan import BLOCK
from vitlit.errors import InputError
from vitlit.files import printable
from vitlit.images.framing import PLAIN_FRAMING, Framing
from vitlit.images.image_bytes import ImageBytes, name_hash
from vitlit.images.image_io import MAX_FILE_BYTES
from vitlit.images.image_store import BadFile, FileImages

MAX_GAP = 2**16  # bytes between two images that are read with them, rather than in two readings
MAX_SPAN = 2**23  # bytes that are read at once
OCTAL = re.compile(rb"[0-7]+")
CHECKSUM = slice(148, 156)  # of a tar header, which counts as spaces in its own sum


class ShardNames(Sequence[str]):
    """The name of each image, shard/path; made when it is asked for: there may be millions."""

    def __init__(
        self, places: list[str], shard: Tensor, starts: Tensor, ends: Tensor, text: Tensor
    ):
        self._places, self._shard, self._text = places, shard, text
        self._starts, self._ends = starts, ends

    def __len__(self) -> int:
        return len(self._shard)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        return f"{self._places[int(self._shard[place])]}/{self.inside(place)}"

    def inside(self, place: int) -> str:
        """The path that an image has in its shard."""
        letters = self._text[int(self._starts[place]) : int(self._ends[place])]
        return letters.numpy().tobytes().decode(errors="surrogateescape")


class ShardImages(FileImages):
    """Images in tar files, which are decoded each time they are gathered.

    shard, offset, length: where each image lies, int64 ``(n,)``; file_hashes: of their bytes; part:
    train, val, test or all.
    """

    def __init__(
        self,
        opened: Sequence[tuple[str, ShardIndex]],
        labels: Tensor,
        *,
        part: str,
        in_chans: int,
        size: tuple[int, int],
        framing: Framing = PLAIN_FRAMING,
    ) -> None:
        self.part = part
        self.places = [where for where, _ in opened]
        indexes = [index for _, index in opened]
        counts = torch.tensor([len(index) for index in indexes])
        self.shard = torch.arange(len(indexes)).repeat_interleave(counts)
        self.offset = torch.cat([index.offset for index in indexes])
        self.length = torch.cat([index.size for index in indexes])
        self.file_hashes = torch.cat([index.file_hash for index in indexes])
        self._bare_hashes = torch.cat([index.name_hash for index in indexes])
        names = _joined_names(self.places, indexes, self.shard)
        super().__init__(names, labels, in_chans=in_chans, size=size, framing=framing)
        self.names = names
        firsts = (counts.cumsum(0) - counts).tolist()
        self.bad = [
            BadFile(first + place, names[first + place], reason)
            for first, index in zip(firsts, indexes, strict=True)
            for place, reason in index.bad
        ]
        self._stamps = [f"{where}\0{index.bytes}\0{index.mark}" for where, index in opened]
        self._reader = SpanReader()

    def name_hashes(self) -> Tensor:
        """Hash of the path of each image, int64 ``(n,)``: that of the folder it was made from."""
        if self.part == "all":
            return self._bare_hashes
        found = [name_hash(f"{self.part}/{self.names.inside(i)}") for i in range(len(self))]
        return torch.tensor(found, dtype=torch.long)

    def key_lines(self, root: Path) -> Iterator[str]:
        yield from self._stamps

    def image_files(self, indices: Tensor) -> Sequence[ImageBytes]:
        wanted = indices.tolist()
        rows = [column[indices].tolist() for column in (self.shard, self.offset, self.length)]
        lies = dict(zip(wanted, zip(*rows, strict=True), strict=True))
        found = self._read_all(lies)
        return [ImageBytes(self.names[index], *found[index]) for index in wanted]

    def _read_all(self, lies: dict[int, tuple[int, int, int]]) -> dict[int, tuple[memoryview, str]]:
        """The bytes of each image, or why there are none; neighbours are read at once.

        lies: shard, offset and length of each.
        """
        spans: list[Span] = []
        members: list[list[int]] = []
        found: dict[int, tuple[memoryview, str]] = {}
        for index, (shard, start, length) in sorted(lies.items(), key=lambda item: item[1]):
            if length > MAX_FILE_BYTES:
                reason = f"{length:,} bytes, more than the maximum of {MAX_FILE_BYTES:,}"
                found[index] = memoryview(b""), reason
                continue
            span = Span(self.places[shard], start - BLOCK, start + length)
            if spans and _are_neighbours(spans[-1], span):
                spans[-1] = spans[-1]._replace(stop=max(spans[-1].stop, span.stop))
                members[-1].append(index)
            else:
                spans.append(span)
                members.append([index])
        for span, inside, content in zip(spans, members, self._reader.read(spans), strict=True):
            if len(content) > span.stop - span.start:
                raise InputError(
                    f"the server of {printable(span.where)} sends whole files where parts are "
                    f"asked for (HTTP ranges); copy the shards to a disk",
                    argument="data_dir",
                )
            for index in inside:
                _, start, length = lies[index]
                found[index] = _cut(span, content, start, length), ""
        return found


def _cut(span: Span, content: memoryview, offset: int, length: int) -> memoryview:
    """The bytes of an image, if its header is where the index says."""
    start = offset - span.start
    header, found = content[start - BLOCK : start], content[start : start + length]
    if len(found) < length or not _is_header(header):
        raise InputError(
            f"the shard {printable(span.where)} has no image at byte {offset:,}, where its index "
            f"says; it has changed, or is damaged: copy or write the shards again",
            argument="data_dir",
        )
    return found


def _are_neighbours(first: Span, second: Span) -> bool:
    is_near = first.where == second.where and second.start - first.stop <= MAX_GAP
    return is_near and second.stop - first.start <= MAX_SPAN


def _is_header(header: memoryview) -> bool:
    """Whether 512 bytes are a header of a tar file: its sum is in it."""
    stored = bytes(header[CHECKSUM]).strip(b" \0")
    total = sum(header) - sum(header[CHECKSUM]) + 8 * ord(" ")
    return OCTAL.fullmatch(stored) is not None and int(stored, 8) == total


def _joined_names(places: list[str], indexes: list[ShardIndex], shard: Tensor) -> ShardNames:
    shift, ends, starts = 0, [], []
    for index in indexes:
        ends.append(index.name_end + shift)
        zero = torch.zeros(1, dtype=torch.long)
        starts.append(torch.cat([zero, index.name_end])[:-1] + shift)
        shift += len(index.names)
    text = torch.cat([index.names for index in indexes])
    return ShardNames(places, shard, torch.cat(starts), torch.cat(ends), text)


def open_part(
    found: ShardList, part: str, class_names: Sequence[str] | None, **how: Any
) -> ShardImages:
    """The images of one part of a set, labelled by the order of ``class_names``.

    class_names: None if no labels are wanted: they are 0 then; how: in_chans, size and framing of
    FileImages. Raises InputError if the set does not have the part.
    """
    if part not in found.parts:
        raise InputError(
            f"{place_text(found.place)} has no shards of {part}, only of {', '.join(found.parts)}; "
            f"add some with {part} in their names",
            argument="data_dir",
        )
    opened = [one for one in open_indexes(found, [part]) if len(one[1])]
    if not opened:
        raise InputError(f"the {part} shards of {place_text(found.place)} hold no images")
    if class_names is None:
        labels = [torch.zeros(len(index), dtype=torch.long) for _, index in opened]
    else:
        numbers = has_numbers(found)
        each = [numbers_of_labels(one, at, class_names, numbers=numbers) for at, one in opened]
        pairs = zip(each, opened, strict=True)
        labels = [torch.tensor(own)[index.label] for own, (_, index) in pairs]
    return ShardImages(opened, torch.cat(labels), part=part, **how)


def refuse_shards(images: object) -> None:
    """Raise InputError for images in shards, where files are read that other files lie beside."""
    if isinstance(images, ShardImages):
        raise InputError(
            "images are in shards, and this command reads files; give the folder that the shards "
            "were written from",
            argument="images",
        )
