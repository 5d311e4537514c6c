"""Small data sets as the ``datasets`` library saves them: noise with labels, encoded."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

NAMES = ["zebra", "ant/bee"]  # not sorted, and no name for a folder
CLASSES = datasets.ClassLabel(names=NAMES)


def encoded(seed: int, kind: str = "JPEG") -> bytes:
    """An image file of noise, 24x18 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (18, 24, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def table(labels: Sequence[Any], kind: Any = CLASSES, *, seed: int = 0, **more: Any) -> Any:
    """A table with the columns image and label, and more: (type, values) by name."""
    images = [{"bytes": encoded(seed + i), "path": f"p{i}.jpg"} for i in range(len(labels))]
    types = {"image": datasets.Image(), "label": kind}
    values = {"image": images, "label": list(labels)}
    for name, (type_, content) in more.items():
        types[name], values[name] = type_, content
    return datasets.Dataset.from_dict(values, features=datasets.Features(types))


def save(folder: Path, tables: Any) -> str:
    """Save tables as save_to_disk does; returns the name of the data set."""
    found = datasets.DatasetDict(tables) if isinstance(tables, dict) else tables
    found.save_to_disk(str(folder))
    return f"hub:{folder}"
