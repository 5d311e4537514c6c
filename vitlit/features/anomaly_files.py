"""What ``anomaly`` writes and says: scores, distances of patches, a picture, and AUROC.

Scanner, files of normal and of new images -> anomaly/: scores.csv maps.npy metrics.json
                                                        heat_maps.png
"""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitlit.errors import InputError, Stopped
from vitlit.features import anomaly_figures
from vitlit.features.anomaly import (
    Normal,
    Scanner,
    Scored,
    auroc,
    class_of_files,
    good_class,
    learn_normal,
    normal_files,
    other_files,
    score_images,
)
from vitlit.files import printable
from vitlit.images.bad_images import list_bad_images, refuse_bad_images
from vitlit.images.image_store import FileImages
from vitlit.messages import counted, fitted, labelled
from vitlit.prediction.row_file import RowFile

MAX_SHOWN = 64  # images in the picture
MAX_LINES = 12  # classes that are printed; metrics.json has all
SCORES_FILE, MAPS_FILE = "scores.csv", "maps.npy"


class Choices(NamedTuple):
    """What the user chose; the command describes each."""

    normal: list[str]
    good: str | None
    bank: int
    shown: int

    def check(self) -> None:
        """Raise InputError for a number that is out of range."""
        if not self.normal:
            raise InputError(
                "anomaly compares with normal images; give a folder of them", argument="normal"
            )
        if self.bank < 1:
            raise InputError(f"bank {self.bank} is too small; give 1 or more", argument="bank")
        if not 1 <= self.shown <= MAX_SHOWN:
            raise InputError(
                f"the picture shows 1 to {MAX_SHOWN} images, not {self.shown}; give a count in "
                f"that range",
                argument="count",
            )


class Found(NamedTuple):
    """Lines that report what was found; stopped: the signal that ended the scoring, if any.

    The signal says after how many images it came.
    """

    lines: list[str]
    stopped: Stopped | None


def find_anomalies(
    scanner: Scanner, folder: Path, choices: Choices, grid: tuple[int, int]
) -> Found:
    """Score the images of the data by their distance to the normal ones, and write the results.

    grid: rows and columns of patches. A signal leaves the results of the images so far.
    """
    data = scanner.data
    data.setup("predict")
    normal_split = normal_files(data, choices.normal)
    split, left_out = other_files(data, normal_split)
    classes = class_of_files([*split.images.paths], data.image_paths or [])
    good = good_class(classes, choices.normal, choices.good)
    normal = learn_normal(scanner, normal_split, choices.bank)
    with RowFile(folder / MAPS_FILE) as maps:
        scored = score_images(scanner, split, normal.bank, grid, maps)
    if not scored.scores:
        if scored.stopped is not None:
            raise scored.stopped
        way_out = "fix them, or give other images"
        refuse_bad_images(scored.bad, len(scored.bad), way_out, argument="images")
    write_scores(folder / SCORES_FILE, [*split.images.paths], classes, scored, normal.scores)
    metrics = measure(normal, scored, classes, good)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    _draw(scanner, split.images, scored, normal, choices.shown, folder)
    if scored.stopped is not None:
        done = len(scored.scores) + len(scored.bad)
        scored.stopped.where = f"after {done} of {len(split)} images"
    return Found(_lines(normal, normal_split.images, scored, metrics, left_out), scored.stopped)


def write_scores(
    path: Path, files: list[str], classes: list[str], scored: Scored, normal: Tensor
) -> None:
    """A row for each image, the highest score first, then the files that cannot be read.

    Columns: file; class, its folder; score; p, the share of normal images, this one among them,
    that score as high; map, its row in maps.npy; error: why it cannot be read.
    """
    order = sorted(scored.scores, key=lambda place: -scored.scores[place])
    scores = torch.tensor([scored.scores[place] for place in order], dtype=torch.float64)
    # sorted once: to compare each score with all of them would take their product in time
    below = torch.searchsorted(normal.double().sort().values, scores)
    shares = ((1 + len(normal) - below).double() / (1 + len(normal))).tolist()
    # surrogateescape: names that are not UTF-8 are written as they are on disk
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "score", "p", "map", "error"])
        for place, share in zip(order, shares, strict=True):
            score = scored.scores[place]
            p = f"{share:.4f}" if len(normal) else ""  # one normal image has none before it
            writer.writerow([files[place], classes[place], f"{score:.6f}", p, place, ""])
        for bad in scored.bad:
            writer.writerow([bad.path, classes[bad.place], "", "", "", bad.reason])


def measure(normal: Normal, scored: Scored, classes: list[str], good: str | None) -> dict[str, Any]:
    """The numbers of metrics.json; AUROC only if there are scored images of both kinds."""
    places = sorted(scored.scores)
    scores = torch.tensor([scored.scores[place] for place in places])
    metrics: dict[str, Any] = {
        "normal_images": normal.images,
        "normal_patches": normal.patches,
        "bank": len(normal.bank),
        "bank_radius": normal.radius,
        "images": len(places),
        "highest_normal_score": float(normal.scores.max()) if len(normal.scores) else None,
        "normal_class": good,
    }
    found = [classes[place] for place in places]
    others = sorted(set(found) - {"", good})
    if good is None or good not in found or not others:
        return metrics
    known = torch.tensor([name != "" for name in found])
    is_good = torch.tensor([name == good for name in found])
    metrics["auroc"] = auroc(scores[known], ~is_good[known])
    metrics["auroc_of"] = {}
    for name in others:
        is_name = torch.tensor([one == name for one in found])
        metrics["auroc_of"][name] = {
            "auroc": auroc(scores[is_name | is_good], is_name[is_name | is_good]),
            "images": int(is_name.sum()),
        }
    metrics["good_images"] = int(is_good.sum())
    return metrics


def _draw(
    scanner: Scanner,
    images: FileImages,
    scored: Scored,
    normal: Normal,
    count: int,
    folder: Path,
) -> None:
    """The images with the highest scores, and after them a few of the lowest."""
    order = sorted(scored.scores, key=lambda place: -scored.scores[place])
    lowest = order[count:][-(count // 3) :] if count >= 3 else []
    shown = [*order[:count], *lowest]
    about = scanner.data.preprocess
    # the same cutting and resizing, but neither normalised nor inverted: as the file looks
    mean, std = (0.0,) * len(about.mean), (1.0,) * len(about.std)
    plain = replace(about, mean=mean, std=std, invert=False)
    pixels = plain(images.gather(torch.tensor(shown)))
    # only the rows that are shown are read
    maps = torch.from_numpy(np.load(folder / MAPS_FILE, mmap_mode="r")[shown])
    high = max(scored.scores.values())
    low = float(normal.scores.median()) if len(normal.scores) else 0.0
    low = low if low < high else 0.0  # or there would be nothing between them
    words = [f"{scored.scores[i]:.3f}  {_short_name(images.paths[i])}" for i in shown]
    title = f"the {len(shown) - len(lowest)} highest scores"
    title += f" and the {len(lowest)} lowest" if lowest else ""
    title += "; colour is where an image differs from normal ones"
    anomaly_figures.heat_map_sheet(
        pixels, maps, words, low=low, high=max(high, low + 1e-6), title=title
    ).savefig(folder / "heat_maps.png")


def _short_name(file: str) -> str:
    """The last folder and the name, as other pictures name images."""
    return printable(Path(*Path(file).parts[-2:]))


def _lines(
    normal: Normal,
    normal_images: FileImages,
    scored: Scored,
    metrics: dict[str, Any],
    left_out: int,
) -> list[str]:
    bank, patches = len(normal.bank), normal.patches
    kept = "all" if not normal.radius else f"{bank:,}"
    text = f"{counted(normal.images, 'image')}; the bank holds {kept} of {patches:,} patches"
    lines = [labelled("normal", text)]
    if normal.radius:
        why = "(those farthest apart; a larger bank keeps more and takes more time)"
        lines.append(labelled("", why))
    highest = metrics["highest_normal_score"]
    scores = scored.scores.values()
    text = f"{counted(len(scores), 'image')}; scores {min(scores):.4f} to {max(scores):.4f}"
    lines.append(labelled("new", text))
    if highest is not None:
        above = sum(score > highest for score in scores)
        known = len(normal.scores)
        which = "the normal image" if known == 1 else f"each of {known:,} normal images"
        others = f"{which} ({highest:.4f})"
        lines.append(labelled("", f"{above:,} score higher than {others}"))
    if left_out:
        lines.append(
            labelled("left out", f"{left_out:,} images that are also among the normal ones")
        )
    lines += _auroc_lines(metrics)
    for kind, bad, good in (
        ("normal", normal.bad, normal.images),
        ("new", scored.bad, len(scores)),
    ):
        if bad:
            total = good + len(bad)
            count = f"{len(bad)} of {total} {kind} images cannot be read:"
            lines.append(fitted(list_bad_images(count, bad), sys.stdout))
    return lines


def _auroc_lines(metrics: dict[str, Any]) -> list[str]:
    if "auroc" not in metrics:
        return []
    good, parts = metrics["normal_class"], metrics["auroc_of"]
    count = sum(part["images"] for part in parts.values())
    against = f"{metrics['good_images']:,} of {printable(good)}"
    text = f"{metrics['auroc']:.4f}  {counted(count, 'image')} against {against}"
    lines = [labelled("AUROC", text)]
    if 1 < len(parts) <= MAX_LINES:
        width = max(len(printable(name)) for name in parts)
        lines += [
            f"            {part['auroc']:.4f}  {printable(name):{width}}  "
            f"{counted(part['images'], 'image')}"
            for name, part in parts.items()
        ]
    return lines
