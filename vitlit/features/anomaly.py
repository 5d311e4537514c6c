"""Runs ``anomaly``: how far the patches of new images are from all patches of normal ones.

normal files -> patch tokens (k, N, D), batch by batch -> a bank (m, D) that stands for all of them
new files    -> patch tokens (k, N, D) -> distances to the bank (k, rows, cols), a score for each
                anomaly/: scores.csv maps.npy metrics.json heat_maps.png

The method is AnomalyDINO's (Damm et al., 2025, arXiv 2405.14529), which trains nothing. The bank is
thinned as in coreset.py, so the memory does not grow with the number of images.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vitlit.data.batch import Batch
from vitlit.data.datamodule import PlainImageData
from vitlit.data.shards.shard_images import refuse_shards
from vitlit.data.splits import FoundFiles
from vitlit.errors import InputError, Stopped
from vitlit.evaluation.inference import loader_of
from vitlit.features.coreset import Coreset, nearest_distance
from vitlit.files import expanded
from vitlit.images.bad_images import refuse_bad_images, say_unread
from vitlit.images.find_images import find_images
from vitlit.images.image_store import BadFile, FileImages
from vitlit.prediction.row_file import RowFile

HIGHEST_SHARE = 100  # a hundredth of the patches, the most distant ones, make the score

Tokens = Callable[[Tensor], Tensor]  # a batch's input -> patch tokens (B, N, D)


class Normal(NamedTuple):
    """What normal images are like.

    bank: unit vectors ``(m, D)``; patches, images: how many it stands for; radius: every patch is
    within this Euclidean distance of one in the bank; scores: of the later half of the images, each
    against a bank of images before it; bad: files that cannot be read.
    """

    bank: Tensor
    patches: int
    images: int
    radius: float
    scores: Tensor
    bad: list[BadFile]


class Scored(NamedTuple):
    """Scores by place among the files; bad: the files without one; stopped: the signal, if any."""

    scores: dict[int, float]
    bad: list[BadFile]
    stopped: Stopped | None


class Scanner:
    """Computes the patch tokens of image files, prepared as the model's own, batch by batch."""

    def __init__(
        self, data: PlainImageData, tokens: Tokens, device: torch.device, *, shows_bar: bool = False
    ) -> None:
        self.data, self.tokens, self.device, self.shows_bar = data, tokens, device, shows_bar

    def tokens_of(self, split: FoundFiles, doing: str) -> Iterator[tuple[Tensor, Batch]]:
        """Unit vectors float32 ``(B, N, D)``, those of bad files too, and their batch."""
        batches: Iterable[Batch] = loader_of(self.data, split)
        for batch in tqdm(batches, desc=doing, leave=False, disable=not self.shows_bar):
            ready = self.data.transfer_batch_to_device(batch, self.device, 0)
            ready = self.data.transform(ready, augment=False)
            with torch.no_grad():
                found = self.tokens(ready.x).float()
            # a sum is NaN or infinite if one of its terms is
            if not found.sum().isfinite():
                raise InputError(
                    "the outputs of the model are not finite, so nothing can be compared; its "
                    "weights are damaged"
                )
            yield F.normalize(found, dim=-1), ready


def image_scores(distances: Tensor) -> Tensor:
    """Mean of the largest hundredth of an image's distances, at least one: ``(B, N) -> (B,)``."""
    count = max(1, distances.shape[1] // HIGHEST_SHARE)
    return distances.topk(count, dim=1).values.mean(dim=1)


def distances_to(bank: Tensor, tokens: Tensor) -> Tensor:
    """Distance of each patch, unit vectors ``(B, N, D)``, to the bank ``(m, D)``: ``(B, N)``."""
    return nearest_distance(tokens.flatten(0, 1), bank).view(tokens.shape[:2])


def learn_normal(scanner: Scanner, split: FoundFiles, most: int) -> Normal:
    """Make the bank of normal images, at most ``most`` vectors.

    Raises InputError if none of the images can be read.
    """
    coreset = Coreset(most)
    scores: list[Tensor] = []
    bad: dict[int, str] = {}
    count = 0
    for tokens, batch in scanner.tokens_of(split, "Normal images"):
        bad |= dict(batch.bad)
        tokens = tokens[batch.valid]
        while len(tokens):
            # No more at a time than there were before: each is scored by half of them at least.
            part, tokens = tokens[: max(1, count)], tokens[max(1, count) :]
            if count:
                scores.append(image_scores(distances_to(coreset.kept, part)).cpu())
            coreset.add(part.flatten(0, 1))
            count += len(part)
    files = [BadFile(i, split.images.paths[i], bad[i]) for i in sorted(bad)]
    if not count:
        refuse_bad_images(files, len(split), "fix them, or give other images", argument="normal")
    # The first ones have few images before them, and seem stranger than they are.
    # The first one has no score.
    later = torch.cat(scores)[max(0, count // 2 - 1) :] if scores else torch.empty(0)
    return Normal(coreset.bank(), coreset.seen, count, coreset.radius, later, files)


def score_images(
    scanner: Scanner, split: FoundFiles, bank: Tensor, grid: tuple[int, int], maps: RowFile
) -> Scored:
    """Score new images; ``maps`` gets the distances of each, NaN for a file that cannot be read."""
    scores: dict[int, float] = {}
    bad: list[BadFile] = []
    stopped = None
    try:
        for tokens, batch in scanner.tokens_of(split, "New images"):
            distances = distances_to(bank, tokens)
            distances[~batch.valid] = float("nan")
            found = image_scores(distances).tolist()
            maps.add(distances.view(-1, *grid))
            for place, is_good, score in zip(
                batch.sample.tolist(), batch.valid.tolist(), found, strict=True
            ):
                if is_good:
                    scores[place] = score
            bad += [BadFile(i, split.images.paths[i], reason) for i, reason in batch.bad]
    except Stopped as signal:
        stopped = signal
    return Scored(scores, bad, stopped)


def normal_files(data: PlainImageData, given: list[str]) -> FoundFiles:
    """The files of the normal images, decoded as those of the data are; after its setup."""
    unread: list[str] = []
    paths = find_images(given, unread, argument="normal")
    say_unread(unread)
    images = data.splits["predict"].images
    refuse_shards(images)
    assert isinstance(images, FileImages)
    return FoundFiles(images.others(paths), torch.arange(len(paths)))


def other_files(data: PlainImageData, normal: FoundFiles) -> tuple[FoundFiles, int]:
    """The new images that are not among the normal ones, and the number of those that are.

    Raises InputError if all of them are.
    """
    images = data.splits["predict"].images
    assert isinstance(images, FileImages)
    # A link to a normal image is that image: its distance would be 0 whatever it shows.
    # realpath: Path.resolve raises for a link to itself, which is listed as unreadable later.
    known = set(map(os.path.realpath, normal.images.paths))
    paths = [path for path in images.paths if os.path.realpath(path) not in known]
    if not paths:
        raise InputError(
            f"all {len(images)} images are also among the normal ones, so none is left to score; "
            f"give other images",
            argument=("images", "normal"),
        )
    return FoundFiles(images.others(paths), torch.arange(len(paths))), len(images) - len(paths)


def class_of_files(files: list[str], given: list[str]) -> list[str]:
    """The class folder of each file: the first folder below one that was given, else that itself.

    An empty string for a file that was given by name, and for one that lies beside class folders.
    """
    roots = {str(expanded(path)) for path in given if expanded(path).is_dir()}
    below = [_below(Path(file), roots) for file in files]
    with_classes = {root for root, parts in below if len(parts) > 1}
    names = []
    for root, parts in below:
        if len(parts) > 1:
            names.append(parts[0])
        else:
            names.append("" if not root or root in with_classes else Path(root).resolve().name)
    return names


def _below(file: Path, roots: set[str]) -> tuple[str, tuple[str, ...]]:
    """The nearest folder of ``roots`` above a file, and the path from there."""
    for parent in file.parents:
        if str(parent) in roots:
            return str(parent), file.relative_to(parent).parts
    return "", ()


def good_class(classes: list[str], normal: list[str], good: str | None) -> str | None:
    """The class that is normal: ``good``, else the name of a normal folder; None if unknown.

    Raises InputError if no image has the class ``good``.
    """
    known = sorted(set(classes) - {""})
    if good is not None:
        if good not in known:
            raise InputError(
                f"good {good!r} is not a class folder of the images; "
                f"known: {', '.join(known) or 'none'}",
                argument="good",
            )
        return good
    names = [expanded(path).resolve().name for path in normal]
    found = next((name for name in names if name in known), None)
    return found if len(known) > 1 else None


def auroc(scores: Tensor, is_anomalous: Tensor) -> float:
    """Share of the pairs of an anomalous and a normal image in which the first scores higher.

    Pairs with equal scores count half. scores, is_anomalous: ``(n,)``, with some of both kinds.
    """
    _, place, counts = torch.unique(scores.double(), return_inverse=True, return_counts=True)
    # ranks from 1, of equal scores their mean
    rank = (counts.cumsum(0) - (counts - 1) / 2)[place].double()
    positive = int(is_anomalous.sum())
    below = float(rank[is_anomalous].sum()) - positive * (positive + 1) / 2
    return below / (positive * (len(scores) - positive))
