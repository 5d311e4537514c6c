"""Photographs as timm's transforms and transformers' image processors make them, and as we do.

Differences are means over the pixels of an image, in levels of 255.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from photographs import odd_photographs
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from vitlit.errors import InputError
from vitlit.images.framing import Framing, padded_with_mean
from vitlit.images.preprocess import Preprocess
from vitlit.images.published_framing import (
    framing_of_processor,
    framing_of_timm,
    framing_of_words,
    framing_words,
    processor_settings,
    timm_settings,
)

SIDE = 48
SQUARE = {"height": SIDE, "width": SIDE}
MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.26, 0.27)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return odd_photographs(tmp_path_factory.mktemp("photographs"))


def ours(framing: Framing, path: Path) -> Tensor:
    size, framed = (SIDE, SIDE), padded_with_mean(framing, MEAN)
    preprocess = Preprocess(3, size, size, MEAN, STD, framing=framed)
    return preprocess(preprocess.read(path)[None])[0]


def levels(difference: Tensor) -> float:
    """Mean difference of normalised pixels, in levels of 255."""
    return float((difference.abs() * torch.tensor(STD).view(-1, 1, 1)).mean() * 255)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("fraction", [0.9, 1.0])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_photographs_are_those_of_timms_transform(
    photographs: list[Path], mode: str, fraction: float, interpolation: str
) -> None:
    told: dict[str, Any] = {
        "crop_pct": fraction, "crop_mode": mode, "interpolation": interpolation
    }  # fmt: skip
    transform = create_transform((3, SIDE, SIDE), mean=MEAN, std=STD, **told)
    for path in photographs:
        with Image.open(path) as image:
            expected = transform(image)
        assert levels(ours(framing_of_timm(told), path) - expected) <= 0.5, path.name


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIP": ("CLIPImageProcessor", {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}),
    "DINOv2": ("BitImageProcessor", {"size": {"shortest_edge": 54}, "crop_size": SQUARE}),
    "SigLIP": ("SiglipImageProcessor", {"size": SQUARE}),
    "ViT": ("ViTImageProcessor", {"size": SQUARE}),
    "DINOv3": ("DINOv3ViTImageProcessor", {"size": SQUARE}),
    "DeiT": ("DeiTImageProcessor", {"size": {"height": 54, "width": 54}, "crop_size": SQUARE}),
    "BEiT": ("BeitImageProcessor", {"size": SQUARE}),
}


def of_processor(processor: Any) -> Callable[[Path], Tensor]:
    def read(path: Path) -> Tensor:
        with Image.open(path) as image:
            found = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return torch.as_tensor(np.asarray(found))

    return read


@pytest.mark.parametrize("family", PROCESSORS)
def test_photographs_are_those_of_transformers_processor(
    photographs: list[Path], family: str
) -> None:
    kind, settings = PROCESSORS[family]
    processor = getattr(transformers, kind)(**settings, image_mean=MEAN, image_std=STD)
    framing = framing_of_processor(processor.to_dict())
    assert framing is not None
    for path in photographs:
        expected, found = of_processor(processor)(path), ours(framing, path)
        apart = levels(found - expected)
        if framing.fit == "cover" or framing.crop_fraction < 1:
            # of an odd number of pixels to cut off, transformers leaves one more at the end, and
            # torchvision and timm, whose rule we have, every second time at the start
            apart = min(apart, levels(found[..., :-1] - expected[..., 1:]))
            apart = min(apart, levels(found[:, :-1] - expected[:, 1:]))
        assert apart <= 0.5, path.name


def test_large_jpeg_files_differ_by_less_than_two_levels(
    photographs: list[Path], tmp_path: Path
) -> None:
    """They are decoded at a part of their size, which need not divide their sides."""
    with Image.open(photographs[0]) as image:
        image.resize((2049, 1367)).save(tmp_path / "large.jpg", quality=95)
    told = {"crop_pct": 0.9, "crop_mode": "center", "interpolation": "bicubic"}
    with Image.open(tmp_path / "large.jpg") as image:
        expected = create_transform((3, SIDE, SIDE), mean=MEAN, std=STD, **told)(image)
    assert levels(ours(framing_of_timm(told), tmp_path / "large.jpg") - expected) <= 2


def test_sizes_are_timms_for_all_of_its_published_vits() -> None:
    names = [n for n in timm.list_pretrained() if n.startswith(("vit_", "eva", "deit", "beit"))]
    assert len(names) > 300
    for config in map(timm.get_pretrained_cfg, names):
        told = config.to_dict()
        framing, side = framing_of_timm(told), told["input_size"][1]
        framing.check()
        assert framing.fitted_to((side, side))[0] == math.floor(side / told["crop_pct"])
        assert framing.interpolation == told["interpolation"]


@pytest.mark.parametrize(
    ("settings", "framing"),
    [
        (
            {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224},
            Framing("cover", 1.0, "bicubic"),
        ),
        (
            {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2},
            Framing("squash", 1.0, "bilinear"),
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "size": 384},
            Framing("squash", 1, "bilinear"),
        ),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224},
            Framing("squash", 0.875, "bicubic"),
        ),
        ({"size": 256, "crop_size": 224, "do_center_crop": False}, Framing("squash")),
        ({}, None),
        ({"size": 224, "do_resize": False}, None),
        ({"size": {"longest_edge": 224}}, None),
    ],
    ids=str,
)
def test_older_files_of_transformers_are_read_as_it_reads_them(
    settings: dict[str, Any], framing: Framing | None
) -> None:
    assert framing_of_processor(settings) == framing


@pytest.mark.parametrize("value", [0.01, 1.5, "0.9", True, float("nan")])
def test_a_fraction_that_is_none_is_refused_with_its_value(value: Any) -> None:
    with pytest.raises(InputError, match=f"crop_pct {value!r} in the settings"):
        framing_of_timm({"crop_pct": value})


@pytest.mark.parametrize("fit", ["cover", "squash", "letterbox"])
@pytest.mark.parametrize("fraction", [1.0, 0.875])
def test_what_is_written_is_read_again(fit: Any, fraction: float) -> None:
    framing = Framing(fit, fraction, "bilinear")
    assert framing_of_timm(timm_settings(framing)) == framing
    assert framing_of_words(framing_words(framing)) == framing
    if fit != "letterbox":
        assert framing_of_processor(processor_settings(framing, (56, 56))) == framing


def test_words_of_no_framing_are_none() -> None:
    assert framing_of_words({"fit": "stretch", "interpolation": "bicubic"}) is None
    assert framing_of_words({}) is None
