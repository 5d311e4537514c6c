"""Five photographs of odd sizes, made of the two that come with scikit-learn."""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_image


def odd_photographs(folder: Path) -> list[Path]:
    """Lossless files: wide, tall, a panorama, one with odd sides, and a small one."""
    china, flower = (Image.fromarray(load_sample_image(f"{name}.jpg")) for name in NAMES)
    made = {
        "wide": china,  # 640 x 427
        "tall": flower.transpose(Image.Transpose.ROTATE_90).crop((3, 7, 300, 630)),  # 297 x 623
        "panorama": china.crop((0, 200, 640, 301)),  # 640 x 101
        "odd": flower.crop((11, 5, 394, 342)),  # 383 x 337
        "small": china.resize((53, 41)),
    }
    for name, image in made.items():
        image.save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in made]


NAMES = ("china", "flower")
