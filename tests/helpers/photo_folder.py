"""What the fixture ``photo_folder`` is: a maker of image folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class PhotoFolder(Protocol):
    """Makes a data folder; ``layout`` is "flat" or names its parts: "train+val+test"."""

    def __call__(
        self,
        layout: str = "flat",
        *,
        classes: Sequence[str] = ("cat", "dog"),
        count: int = 4,
        size: tuple[int, int] = (20, 24),
    ) -> Path: ...
