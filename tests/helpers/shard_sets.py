"""Sets of shards for tests: of a folder, and as other programs write them."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitlit.__main__ import main
from vitlit.data.shards.shard_images import ShardImages, open_part
from vitlit.data.shards.shard_list import find_shards

HOW: dict[str, Any] = {"in_chans": 3, "size": (12, 16)}


def png(seed: int = 0, size: int = 16) -> bytes:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar file with these members, by Python's own module."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def write_foreign(folder: Path, count: int = 5, shards: int = 2, name: str = "set") -> Path:
    """Shards with numbers for classes, as WebDataset's writer makes them."""
    for number in range(shards):
        members: dict[str, bytes] = {}
        for i in range(count):
            members[f"{number}-{i}.png"] = png(10 * number + i)
            members[f"{number}-{i}.cls"] = str(i % 2).encode()
        write_tar(folder / f"{name}-{number:03d}.tar", members)
    return folder


def shard(photos: Path, to: Path, *words: str) -> Path:
    """``vitlit shard``, which succeeds."""
    assert main(["shard", str(photos), "--to", str(to), *words]) == 0
    return to


def opened(place: Path, part: str = "all", names: list[str] | None = None) -> ShardImages:
    """The images of a part; without names, their labels are not read."""
    return open_part(find_shards(place), part, names, **HOW)


def pixels_by_name(images: Any, start: int = 2) -> dict[str, torch.Tensor]:
    """What each image is decoded to, by the last ``start`` parts of its path."""
    rows = images.gather(torch.arange(len(images)))
    names = ["/".join(Path(path).parts[-start:]) for path in images.paths]
    return dict(zip(names, rows, strict=True))
