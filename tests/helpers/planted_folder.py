"""A folder of three classes that can be told apart, and the same with faults planted in it."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ants", "bees", "cows")
COUNTS = {"train": 20, "val": 6, "test": 6}  # images of each class
SIZE = (48, 40)  # width, height in pixels
SWAPPED = {  # files with a wrong label, and the class of what they show
    "train/ants/swapped.png": "cows",
    "train/cows/swapped.png": "bees",
    "test/bees/swapped.png": "ants",
}
# duplicates across splits: file, original, how it is alike
COPIES = {
    "test/ants/copy.png": ("train/ants/3.png", "same file"),
    "val/bees/resaved.bmp": ("train/bees/4.png", "same pixels"),
    "test/cows/compressed.jpg": ("train/cows/5.png", "looks the same"),
}
ODD = {"train/ants/deep.png": "16-bit grey", "train/bees/print.jpg": "CMYK"}
CUT = "train/cows/cut.jpg"


def _field(rng: np.random.Generator, side: int) -> np.ndarray:
    """A smooth random picture, values around 0: (height, width, 3)."""
    low = (rng.normal(size=(side, side, 3)) * 32 + 128).clip(0, 255).astype(np.uint8)
    smooth = Image.fromarray(low).resize(SIZE, Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float64) - 128


class Painter:
    """Paints different images of a class: what they share, and more of their own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(7)
        self.shared = {name: 1.2 * _field(self.rng, 4) for name in CLASSES}

    def paint(self, *names: str) -> Image.Image:
        """An image of a class, or of several, or of none."""
        values = sum(self.shared[name] for name in names) + _field(self.rng, 9) + 128
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def write_clean(root: Path) -> Painter:
    """Fill ``root`` with train, val and test without any fault."""
    painter = Painter()
    for part, count in COUNTS.items():
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                painter.paint(name).save(root / part / name / f"{number}.png")
    return painter


def write_planted(root: Path) -> None:
    """Fill ``root`` likewise, and plant every fault."""
    painter = write_clean(root)
    for file, name in SWAPPED.items():
        painter.paint(name).save(root / file)
    for file, (original, kind) in COPIES.items():
        if kind == "same file":
            (root / file).write_bytes((root / original).read_bytes())
        else:
            Image.open(root / original).save(root / file)
    for file in (root / "val" / "cows").iterdir():
        file.unlink()
    deep, printed = ODD
    grey = np.asarray(painter.paint("ants").convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(root / deep)
    painter.paint("bees").convert("CMYK").save(root / printed)
    painter.paint("cows").save(root / CUT)
    (root / CUT).write_bytes((root / CUT).read_bytes()[:-300])
