"""JPEG files against Pillow's decoder: the same pixels, or left to Pillow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitlit.images import image_io, jpeg
from vitlit.images.image_io import ImageInputError, read_crop, read_image

SIZE = 59, 77  # no multiple of the blocks that JPEG files are made of
KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restart": {"restart_marker_blocks": 3},
}


def photo() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC)


def decoded_fast(path: Path) -> torch.Tensor | None:
    with Image.open(path) as image:
        return jpeg.decode_full_size(path, image)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_pillow(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.jpg"
    photo().save(path, quality=90, **KINDS[kind])
    expected = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    fast = decoded_fast(path)
    assert fast is not None  # torchvision's library was found: the comparison is one
    assert torch.equal(fast, expected)
    assert torch.equal(read_image(path, in_chans=3, size=SIZE), expected)


def test_grey_pixels_are_those_of_pillow(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    photo().convert("L").save(path)
    expected = torch.from_numpy(np.array(Image.open(path)))[None]
    fast = decoded_fast(path)
    assert fast is not None
    assert torch.equal(fast, expected)
    assert torch.equal(read_image(path, in_chans=1, size=SIZE), expected)
    assert torch.equal(read_image(path, in_chans=3, size=SIZE), expected.expand(3, -1, -1))


def save(path: Path, kind: str) -> None:
    """A JPEG file of a kind that Pillow alone reads."""
    options: dict[str, Any] = {}
    image = photo()
    if kind == "turned":
        options["exif"] = image.getexif()
        options["exif"][0x0112] = 6
    if kind == "to scale down":
        image = image.resize((770, 590))
    image.convert("CMYK" if kind == "CMYK" else "RGB").save(path, **options)


@pytest.mark.parametrize("kind", ["CMYK", "turned", "to scale down"])
def test_pillow_reads_what_torchvision_would_read_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    save(tmp_path / "x.jpg", kind)
    found = read_image(tmp_path / "x.jpg", in_chans=3, size=(20, 20))
    monkeypatch.setattr(image_io, "decode_full_size", lambda *_: pytest.fail("it was asked"))
    assert torch.equal(read_image(tmp_path / "x.jpg", in_chans=3, size=(20, 20)), found)


def test_whole_images_and_boxes_are_cut_from_what_torchvision_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo().save(tmp_path / "x.jpg")
    pixels = torch.arange(3 * SIZE[0] * SIZE[1]).remainder(256).byte().view(3, *SIZE)
    monkeypatch.setattr(image_io, "decode_full_size", lambda *_: pixels)
    assert torch.equal(read_image(tmp_path / "x.jpg", in_chans=3, size=SIZE), pixels)
    box = (3, 5, 40, 50)
    cut = read_crop(tmp_path / "x.jpg", in_chans=3, size=(40, 50), choose=lambda h, w: box)
    assert torch.equal(cut, pixels[:, 3:43, 5:55])


def pillows(path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor | str:
    with monkeypatch.context() as patch:
        patch.setattr(image_io, "decode_full_size", lambda *_: None)
        return pixels_or_reason(path)


def pixels_or_reason(path: Path) -> torch.Tensor | str:
    try:
        return read_image(path, in_chans=3, size=SIZE)
    except ImageInputError as error:
        return str(error)


@pytest.mark.parametrize("cut", [1, 2, 3, 100, 1000])
def test_a_file_that_was_cut_short_is_refused_as_pillow_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    photo().save(tmp_path / "whole.jpg", quality=90)
    path = tmp_path / "x.jpg"
    path.write_bytes((tmp_path / "whole.jpg").read_bytes()[:-cut])
    found = pixels_or_reason(path)
    assert isinstance(found, str)
    assert "truncated" in found
    assert found == pillows(path, monkeypatch)


def test_damaged_files_are_read_or_refused_as_by_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    photo().save(tmp_path / "whole.jpg", quality=90)
    content, path, kinds = (tmp_path / "whole.jpg").read_bytes(), tmp_path / "x.jpg", set()
    for _ in range(40):
        damaged = bytearray(content)
        for place in rng.integers(2, len(content), 2):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        found, expected = pixels_or_reason(path), pillows(path, monkeypatch)
        kinds.add(type(found))
        if isinstance(found, str) or isinstance(expected, str):
            assert found == expected
        else:
            assert torch.equal(found, expected)
    assert len(kinds) == 2  # some were read, and some were not


def test_pillow_reads_everything_without_torchvisions_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo().save(tmp_path / "x.jpg")
    found = read_image(tmp_path / "x.jpg", in_chans=3, size=SIZE)
    monkeypatch.setattr(jpeg, "_decoder", lambda: None)
    assert decoded_fast(tmp_path / "x.jpg") is None
    assert torch.equal(read_image(tmp_path / "x.jpg", in_chans=3, size=SIZE), found)


def array(image: Image.Image, scale: int = 1) -> Any:
    """All that Pillow decodes, at 1 / scale of the size."""
    image.draft(None, (image.width // scale, image.height // scale))
    return np.array(image)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [*KINDS, "grey"])
def test_the_first_rows_have_the_pixels_of_the_whole_file(
    tmp_path: Path, kind: str, scale: int
) -> None:
    path = tmp_path / "x.jpg"
    large = photo().resize((301, 203), Image.Resampling.BICUBIC)
    large.convert("L" if kind == "grey" else "RGB").save(path, quality=95, **KINDS.get(kind, {}))
    whole = array(Image.open(path), scale)
    for rows in (1, 30, 31, 64, 157):
        with Image.open(path) as image:
            upper = jpeg.first_rows(path, image, rows)
            assert rows + 2 <= upper.height <= rows + 33
            found = array(upper, scale)
        needed = -(-rows // scale)
        assert len(found) < len(whole)
        assert np.array_equal(found[:needed], whole[:needed])


@pytest.mark.parametrize("size", [(12, 18), (24, 30), (90, 60)])
@pytest.mark.parametrize("box", [(0, 0, 120, 150), (37, 80, 101, 151), (103, 1, 100, 300)])
def test_a_box_is_the_same_whether_rows_below_it_are_decoded_or_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    box: image_io.Box,
    size: tuple[int, int],
) -> None:
    path = tmp_path / "x.jpg"
    photo().resize((301, 203), Image.Resampling.BICUBIC).save(path, quality=95)
    found = read_crop(path, in_chans=3, size=size, choose=lambda h, w: box)
    assert capfd.readouterr().err == ""  # libjpeg says nothing of the rows that are left out
    monkeypatch.setattr(image_io, "first_rows", lambda path, image, rows: image)
    assert torch.equal(read_crop(path, in_chans=3, size=size, choose=lambda h, w: box), found)


def test_a_box_above_the_damage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    photo().resize((301, 203), Image.Resampling.BICUBIC).save(path, quality=95)

    def upper_box() -> torch.Tensor:
        return read_crop(path, in_chans=3, size=(9, 9), choose=lambda h, w: (0, 0, 70, 70))

    found = upper_box()
    path.write_bytes(path.read_bytes()[:-2000])
    assert torch.equal(upper_box(), found)
    with pytest.raises(ImageInputError, match="truncated"):
        read_crop(path, in_chans=3, size=(9, 9), choose=lambda h, w: (0, 0, 203, 70))


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xda\x00\x08" + bytes(20)])
def test_a_file_without_sizes_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    photo().save(tmp_path / "x.jpg")
    (tmp_path / "y.jpg").write_bytes(content)
    with Image.open(tmp_path / "x.jpg") as image:
        assert jpeg.first_rows(tmp_path / "y.jpg", image, 1) is image


@pytest.mark.parametrize("box", [(3, 0, 995, 1000), (0, 3, 998, 997), (5, 7, 993, 993)])
def test_a_box_that_reaches_the_edge_of_a_smaller_image_has_no_black_rows(
    tmp_path: Path, box: image_io.Box
) -> None:
    Image.new("RGB", (1000, 998), "white").save(tmp_path / "x.jpg")
    how = {"in_chans": 3, "size": (224, 224)}
    found = read_crop(tmp_path / "x.jpg", choose=lambda h, w: box, **how)  # type: ignore[arg-type]
    assert found.min() == 255
