"""Decoding against pixel values known in advance, preprocessing against torchvision and Pillow."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from vitlit.errors import InputError
from vitlit.images.image_io import read_crop, read_image

Pixels = NDArray[np.uint8]
NOISE: Pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
CLEAR_TO_SOLID: Pixels = np.linspace(0, 255, 48).reshape(6, 8).astype(np.uint8)


def read(path: Path, in_chans: int = 3) -> Pixels:
    """An image at its own size, channels last; grey without the channel."""
    with Image.open(path) as image:
        width, height = image.size
    pixels = read_image(path, in_chans=in_chans, size=(height, width)).numpy()
    return pixels[0] if in_chans == 1 else pixels.transpose(1, 2, 0)


def on_white(colour: Pixels, opacity: Pixels) -> NDArray[np.float64]:
    """Blend with white as the definition of opacity says."""
    share = opacity[..., None] / 255
    return colour * share + 255 * (1 - share)


def test_an_image_below_our_limit_gives_no_warning_of_pillows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(NOISE).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # it warns above, and refuses above 80
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_image(tmp_path / "x.png", in_chans=3, size=(6, 8)).numpy() > 0).any()


# -- kinds of files ---------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp", "ppm"])
def test_colour_files_are_read_exactly(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    Image.fromarray(NOISE).save(path, lossless=True)  # which only WebP heeds
    np.testing.assert_array_equal(read(path), NOISE)


def test_a_grey_file_is_read_exactly_as_grey(tmp_path: Path) -> None:
    Image.fromarray(NOISE[..., 0]).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read(tmp_path / "x.png", in_chans=1), NOISE[..., 0])


def test_a_grey_file_read_as_colour_has_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(NOISE[..., 0]).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read(tmp_path / "x.png"), NOISE[..., [0, 0, 0]])


def test_a_colour_file_read_as_grey_has_the_bt601_luma(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "x.png")
    luma = NOISE @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read(tmp_path / "x.png", in_chans=1), luma, atol=0.51)


def test_a_black_and_white_file_spans_0_to_255(tmp_path: Path) -> None:
    Image.fromarray(NOISE[..., 0] > 127).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read(tmp_path / "x.png", 1), (NOISE[..., 0] > 127) * 255)


PALETTE: Pixels = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]], dtype=np.uint8)


def palette_image() -> tuple[Image.Image, Pixels]:
    places: Pixels = (np.arange(48) % 4).reshape(6, 8).astype(np.uint8)
    image = Image.fromarray(places).convert("P")
    image.putpalette(PALETTE.tobytes())
    return image, places


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image, places = palette_image()
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read(tmp_path / "x.png"), PALETTE[places])


@pytest.mark.parametrize("opacity", [[0, 255, 255, 255], [0, 128, 255, 64]])
def test_a_palette_with_transparency_is_laid_on_white(tmp_path: Path, opacity: list[int]) -> None:
    image, places = palette_image()
    image.save(tmp_path / "x.png", transparency=bytes(opacity))
    expected = on_white(PALETTE[places], np.array(opacity, dtype=np.uint8)[places])
    np.testing.assert_allclose(read(tmp_path / "x.png"), expected, atol=1)


def test_a_single_transparent_colour_becomes_white(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "x.png", transparency=tuple(NOISE[2, 3].tolist()))
    expected = NOISE.copy()
    expected[2, 3] = 255
    np.testing.assert_array_equal(read(tmp_path / "x.png"), expected)


def test_rgba_is_laid_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([NOISE, CLEAR_TO_SOLID])).save(tmp_path / "x.png")
    expected = on_white(NOISE, CLEAR_TO_SOLID)
    np.testing.assert_allclose(read(tmp_path / "x.png"), expected, atol=1)


def test_grey_with_opacity_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.dstack([NOISE[..., 0], CLEAR_TO_SOLID])
    Image.frombytes("LA", (8, 6), pixels.tobytes()).save(tmp_path / "x.png")
    expected = on_white(NOISE[..., :1], CLEAR_TO_SOLID)[..., 0]
    np.testing.assert_allclose(read(tmp_path / "x.png", in_chans=1), expected, atol=1)


def test_cmyk_inks_subtract_from_white(tmp_path: Path) -> None:
    inks = np.dstack([NOISE, CLEAR_TO_SOLID])
    Image.frombytes("CMYK", (8, 6), inks.tobytes()).save(tmp_path / "x.tiff")
    expected = (255 - NOISE.astype(float)) * (255 - CLEAR_TO_SOLID[..., None].astype(float)) / 255
    np.testing.assert_allclose(read(tmp_path / "x.tiff"), expected, atol=1)


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled_to_8(tmp_path: Path, ending: str) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(levels * 257).save(tmp_path / f"x.{ending}")
    np.testing.assert_array_equal(read(tmp_path / f"x.{ending}", in_chans=1), levels)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_images_up_to_1_or_to_255_keep_their_levels(tmp_path: Path, top: float) -> None:
    levels = np.arange(256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(levels / 255 * np.float32(top)).save(tmp_path / "x.tiff")
    np.testing.assert_array_equal(read(tmp_path / "x.tiff", in_chans=1), levels)


# -- orientation ------------------------------------------------------------------------------

# what a viewer does to the stored pixels, by the value of EXIF's orientation tag
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def save_turned(path: Path, stored: Pixels, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif, quality=100, subsampling=0)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_turned_jpeg_is_read_upright(tmp_path: Path, orientation: int) -> None:
    blocks = NOISE[:2, :3].repeat(8, axis=0).repeat(8, axis=1)  # flat 8x8 blocks survive JPEG
    save_turned(tmp_path / "x.jpg", blocks, orientation)
    expected = UPRIGHT[orientation](blocks)
    found = read_image(tmp_path / "x.jpg", in_chans=3, size=expected.shape[:2])
    np.testing.assert_allclose(found.permute(1, 2, 0), expected.astype(float), atol=4)


def test_a_turned_jpeg_keeps_its_detail_at_a_narrow_size(tmp_path: Path) -> None:
    stripes = np.tile((np.arange(160) // 4 % 2 * 255).astype(np.uint8)[:, None, None], (1, 1600, 3))
    Image.fromarray(stripes).save(tmp_path / "upright.png")
    save_turned(tmp_path / "turned.jpg", np.ascontiguousarray(np.rot90(stripes)), 6)
    upright = read_image(tmp_path / "upright.png", in_chans=1, size=(100, 10))
    turned = read_image(tmp_path / "turned.jpg", in_chans=1, size=(100, 10))
    error = float((turned.float() - upright.float()).abs().mean())
    assert error < 5


# -- fitting ----------------------------------------------------------------------------------


def test_the_centre_is_cut_from_a_wider_image(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "x.png")
    found = read_image(tmp_path / "x.png", in_chans=3, size=(6, 4))
    np.testing.assert_array_equal(found.permute(1, 2, 0), NOISE[:, 2:6])


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (20, 20), (7, 5), (25, 30)])
def test_any_size_is_scaled_to_cover_and_centred(tmp_path: Path, shape: tuple[int, int]) -> None:
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    smooth = np.dstack([rows * 6, cols * 6, (rows + cols) * 3]).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "x.png")
    cover = v2.Compose([v2.Resize(10, v2.InterpolationMode.BICUBIC), v2.CenterCrop(10)])
    expected = v2.functional.pil_to_tensor(cover(Image.fromarray(smooth)))
    found = read_image(tmp_path / "x.png", in_chans=3, size=(10, 10))
    torch.testing.assert_close(found, expected, rtol=0, atol=1)


@pytest.mark.parametrize("shape", [(40, 31), (33, 50), (64, 64), (20, 30)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_fitting_is_torchvisions_resize_and_centre_crop(
    tmp_path: Path, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    share = max(size[0] / shape[0], size[1] / shape[1])
    cover = [int(side * share + 1e-9) for side in shape]
    resized = v2.Resize(cover, v2.InterpolationMode.BICUBIC)(torch.tensor(pixels).permute(2, 0, 1))
    found = read_image(tmp_path / "x.png", in_chans=3, size=size)
    assert torch.equal(found, v2.CenterCrop(size)(resized))


def test_a_very_long_image_is_read_at_its_centre(tmp_path: Path) -> None:
    ramp = np.tile((np.arange(30_001) // 118).astype(np.uint8), (2, 1))
    Image.fromarray(ramp).save(tmp_path / "x.png")
    found = read_image(tmp_path / "x.png", in_chans=1, size=(64, 64))
    torch.testing.assert_close(found, torch.full_like(found, 15_000 // 118), rtol=0, atol=1)


def test_a_single_pixel_fills_any_size(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "x.png")
    found = read_image(tmp_path / "x.png", in_chans=3, size=(20, 5))
    assert torch.equal(found, torch.tensor([9, 8, 7]).byte().view(3, 1, 1).expand(3, 20, 5))


def test_a_large_jpeg_is_read_like_the_same_pixels_in_a_png(tmp_path: Path) -> None:
    rows, cols = np.mgrid[:400, :600]
    smooth = np.dstack([rows / 2, cols / 3, 255 - cols / 3]).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "x.png")
    Image.fromarray(smooth).save(tmp_path / "x.jpg", quality=95)
    jpeg = read_image(tmp_path / "x.jpg", in_chans=3, size=(16, 16))
    png = read_image(tmp_path / "x.png", in_chans=3, size=(16, 16))
    torch.testing.assert_close(jpeg, png, rtol=0, atol=4)


def test_fine_stripes_of_a_large_jpeg_are_averaged_as_those_of_a_png(tmp_path: Path) -> None:
    """Stripes of 13 pixels shrink to less than 2: decoded at half the size they would alias."""
    row = 127.5 + 100 * np.sin(np.arange(256) * 2 * np.pi / 13)
    stripes = np.tile(row[None, :, None], (256, 1, 3)).astype(np.uint8)
    Image.fromarray(stripes).save(tmp_path / "x.png")
    Image.fromarray(stripes).save(tmp_path / "x.jpg", quality=95)
    jpeg = read_image(tmp_path / "x.jpg", in_chans=3, size=(32, 32))
    png = read_image(tmp_path / "x.png", in_chans=3, size=(32, 32))
    torch.testing.assert_close(jpeg, png, rtol=0, atol=8)


# -- boxes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("box", [(0, 0, 50, 70), (7, 11, 30, 21), (49, 69, 1, 1)])
def test_a_box_is_cut_and_resized_as_torchvision_does_it(
    tmp_path: Path, box: tuple[int, int, int, int], in_chans: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    path = tmp_path / "x.png"
    found = read_crop(path, in_chans=in_chans, size=(16, 24), choose=lambda h, w: box)
    whole = read_image(path, in_chans=in_chans, size=(50, 70))
    expected = v2.functional.resized_crop(whole, *box, [16, 24], antialias=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_box_is_measured_on_the_upright_image(tmp_path: Path, orientation: int) -> None:
    blocks = NOISE[:2, :3].repeat(8, axis=0).repeat(8, axis=1)  # flat 8x8 blocks survive JPEG
    save_turned(tmp_path / "x.jpg", blocks, orientation)
    upright = UPRIGHT[orientation](blocks)
    shapes = []

    def first_block(height: int, width: int) -> tuple[int, int, int, int]:
        shapes.append((height, width))
        return 0, 0, 8, 8

    found = read_crop(tmp_path / "x.jpg", in_chans=3, size=(8, 8), choose=first_block)
    assert shapes == [upright.shape[:2]]
    expected = torch.from_numpy(upright[:8, :8].astype(np.uint8))
    torch.testing.assert_close(found, expected.permute(2, 0, 1), rtol=0, atol=4)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpegs_box_is_cut_where_it_is(tmp_path: Path, orientation: int) -> None:
    rows, cols = np.mgrid[:403, :605]
    smooth = np.dstack([rows / 2, cols / 3, 255 - cols / 3]).astype(np.uint8)
    save_turned(tmp_path / "x.jpg", smooth, orientation)
    whole = torch.tensor(UPRIGHT[orientation](smooth).copy()).permute(2, 0, 1)
    box = (33, 21, 300, 350)
    found = read_crop(tmp_path / "x.jpg", in_chans=3, size=(16, 16), choose=lambda h, w: box)
    expected = v2.functional.resized_crop(whole, *box, [16, 16], antialias=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=2)


# -- bad files --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "truncated", "empty", "missing", "folder"])
def test_what_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.png"
    Image.fromarray(NOISE).save(tmp_path / "whole.png")
    contents = {
        "text": b"not an image",
        "truncated": (tmp_path / "whole.png").read_bytes()[:100],
        "empty": b"",
    }
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(contents[kind])
    with pytest.raises(InputError, match=rf"{kind}\.png"):
        read_image(path, in_chans=3, size=(6, 8))
    with pytest.raises(InputError, match=rf"{kind}\.png"):
        read_crop(path, in_chans=3, size=(6, 8), choose=lambda h, w: (0, 0, h, w))


# -- finding ----------------------------------------------------------------------------------


# -- preprocessing ----------------------------------------------------------------------------
