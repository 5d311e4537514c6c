"""What was found in a data set, and what of it a person should act on.

Inventory, features (n, D) or None -> Findings -> sentences, those to act on first
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.inspection.duplicates import (
    ALIKE_BY_FEATURES,
    LOOKS_SAME,
    SAME_FILE,
    SAME_PIXELS,
    Duplicate,
    equal_pairs,
    listed,
    needed_correlation,
    similar_pairs,
)
from vitlit.inspection.file_facts import FileFacts, read_facts
from vitlit.inspection.fingerprints import centred
from vitlit.inspection.inventory import Inventory
from vitlit.inspection.label_check import LabelCheck, nearest_others
from vitlit.inspection.target_facts import FACTS, ClassFacts
from vitlit.messages import counted

PIXEL_SIDE = 8  # of the thumbnails whose pixels stand in for features
MAX_SEARCHED = 100_000  # images whose features are compared with all others
FEATURE_FACTOR = 0.1  # of needed_correlation, for features
FEATURE_NEIGHBOURS = 3  # of an image, that may be duplicates by their features
MEAN_GAP, STD_RATIO = 0.1, 1.5  # by which the statistics in use may differ from the data's


class Finding(NamedTuple):
    """A sentence: act on it, or know it."""

    level: Literal["act", "know"]
    text: str


class Findings:
    """All that was found; features: ``(n, D)`` of a model, None for small pixels in their place."""

    def __init__(self, inventory: Inventory, features: Tensor | None) -> None:
        self.inventory, self.features = inventory, features
        self.targets: ClassFacts = FACTS[inventory.kind.name](inventory)

    @cached_property
    def facts(self) -> dict[str, FileFacts]:
        """What the headers of the files that can be read say, by path."""
        splits = self.inventory.splits.values()
        paths = [path for split in splits for path in split.files(torch.arange(len(split))) if path]
        pairs = zip(paths, read_facts(paths), strict=True)
        return {path: facts for path, facts in pairs if facts is not None}

    @cached_property
    def duplicates(self) -> list[Duplicate]:
        """Pairs of images that are equal or look the same, those between splits first."""
        own, prints = self.inventory, self.inventory.prints
        found = [
            Duplicate(a, b, SAME_FILE if self._same_file(a, b) else SAME_PIXELS, bits)
            for a, b, bits in equal_pairs(prints.digests)
        ]
        found += [Duplicate(a, b, LOOKS_SAME, bits) for a, b, bits in similar_pairs(prints)]
        return listed([*found, *self._alike_by_features()], own.split)

    def _same_file(self, first: int, second: int) -> bool:
        files = [self.inventory.file_of(image) for image in (first, second)]
        return all(files) and _file_digest(files[0]) == _file_digest(files[1])

    def _alike_by_features(self) -> list[Duplicate]:
        features = self.features
        if features is None or not FEATURE_NEIGHBOURS < len(features) <= MAX_SEARCHED:
            return []
        near, similarity = nearest_others(features, FEATURE_NEIGHBOURS)
        # no upper limit: a model trained on the set has the images of a class close together
        unit = F.normalize(features, dim=1)
        enough = needed_correlation(unit, most=1.0, factor=FEATURE_FACTOR)
        hashes = self.inventory.prints.hashes
        rows, columns = (similarity >= enough).nonzero().unbind(1)
        found = []
        for a, b in zip(rows.tolist(), near[rows, columns].tolist(), strict=True):
            bits = bin(int(hashes[a] ^ hashes[b]) & (1 << 64) - 1).count("1")
            found.append(Duplicate(min(a, b), max(a, b), ALIKE_BY_FEATURES, bits))
        return found

    @cached_property
    def between_splits(self) -> list[Duplicate]:
        """The duplicates of which one image is in another split than the other."""
        split = self.inventory.split
        return [pair for pair in self.duplicates if split[pair.first] != split[pair.second]]

    @cached_property
    def two_labels(self) -> list[Duplicate]:
        """The duplicates with different labels."""
        same = self.inventory.has_same_label
        return [pair for pair in self.duplicates if not same(pair.first, pair.second)]

    @cached_property
    def labels(self) -> LabelCheck:
        """Labels that the neighbours contradict."""
        features = self.features
        if features is None:
            features = centred(self.inventory.prints.thumbnails, PIXEL_SIDE)
        return self.targets.check(features)

    def kinds(self) -> Counter[str]:
        """How many files store their colours in which way."""
        return Counter(facts.kind for facts in self.facts.values())

    def sentences(
        self, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> list[Finding]:
        """Those to act on first. size: (height, width) of the model's input; mean, std: in use."""
        targets = self.targets.remarks()
        act = [*self._of_files(), *targets.act, *self._of_duplicates(), *self._of_labels()]
        know = [*self._of_copies(), *self._of_kinds(size), *targets.know]
        know += self._of_statistics(mean, std)
        return [Finding("act", text) for text in act] + [Finding("know", text) for text in know]

    def _of_files(self) -> list[str]:
        unread = self.inventory.unread
        if not unread:
            return []
        return [
            f"{counted(len(unread), 'file')} cannot be read. Training refuses to start until "
            f"{'it is' if len(unread) == 1 else 'they are'} fixed or removed, unless "
            f"on_bad_image is skip."
        ]

    def _of_duplicates(self) -> list[str]:
        found = []
        for kinds, words in (
            ((SAME_FILE, SAME_PIXELS), "exactly the same image"),
            ((LOOKS_SAME,), "images that look the same"),
            ((ALIKE_BY_FEATURES,), "images with nearly equal features"),
        ):
            pairs = [pair for pair in self.between_splits if pair.kind in kinds]
            if pairs:
                found.append(
                    f"{counted(len(pairs), 'pair')} of {words} in two splits "
                    f"({self._places(pairs)}). Scores on them are too high: keep one of each pair."
                )
        if self.two_labels:
            wrong = self.targets.contradictions([pair[:2] for pair in self.two_labels])
            found.append(f"{counted(len(self.two_labels), 'pair')} of duplicates {wrong}")
        return found

    def _places(self, pairs: Sequence[Duplicate]) -> str:
        own = self.inventory
        names = Counter(f"{own.split_of(a)} and {own.split_of(b)}" for a, b, _, _ in pairs)
        return ", ".join(f"{name}: {count}" for name, count in names.items())

    def _of_labels(self) -> list[str]:
        count = len(self.labels.doubts)
        if not count:
            return []
        return [f"{counted(count, 'label')} may be wrong: {self.targets.doubt}. Check them."]

    def _of_copies(self) -> list[str]:
        count = len(self.duplicates) - len(self.between_splits)
        if not count:
            return []
        return [f"{counted(count, 'pair')} of duplicates within a split: such images count twice."]

    def _of_kinds(self, size: tuple[int, int]) -> list[str]:
        odd = {
            kind: count
            for kind, count in self.kinds().items()
            if kind == "CMYK" or "bit" in kind or kind.startswith("floating")
        }
        found = []
        if odd:
            listing = ", ".join(f"{count} {kind}" for kind, count in odd.items())
            found.append(
                f"{counted(sum(odd.values()), 'file')} with unusual colours ({listing}), converted "
                f"to 8 bits when read. Check on the sheet that they look right."
            )
        small = sum(one.height < size[0] or one.width < size[1] for one in self.facts.values())
        if small:
            found.append(
                f"{counted(small, 'file')} of {len(self.facts):,} smaller than the model's input, "
                f"{size[0]} x {size[1]} pixels: they are enlarged, which adds no detail."
            )
        return found

    def _of_statistics(self, mean: Sequence[float], std: Sequence[float]) -> list[str]:
        own_mean, own_std = self.inventory.statistics("train")
        is_far = any(abs(a - b) > MEAN_GAP for a, b in zip(mean, own_mean, strict=True))
        ratios = [max(a, b) / max(1e-6, min(a, b)) for a, b in zip(std, own_std, strict=True)]
        if not is_far and max(ratios) <= STD_RATIO:
            return []
        return [
            "The mean or the standard deviation in use is far from that of the training images. "
            "To train from scratch, use the values below; published weights need their own."
        ]


def _file_digest(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            digest = blake2b()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:  # it is gone since it was decoded
        return path.encode(errors="surrogateescape")
    return digest.digest()
