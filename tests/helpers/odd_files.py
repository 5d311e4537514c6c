"""Odd image files, written byte by byte or by Pillow, with the pixels that a viewer shows.

Each writer takes a path and returns uint8 (h, w, 3), or (h, w), or None where there is no image.
"""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[Any]
Writer = Callable[[Path], Pixels | None]
RNG = np.random.default_rng(0)
NOISE: Pixels = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
GREY: Pixels = NOISE[..., 0]
CLEAR: Pixels = RNG.integers(0, 256, (12, 16), dtype=np.uint8)  # opacity
DEEP: Pixels = RNG.integers(0, 65536, (12, 16, 3), dtype=np.uint16)
BLOCKS: Pixels = NOISE[:2, :3].repeat(8, axis=0).repeat(8, axis=1)  # flat 8x8 blocks survive JPEG


def png(kind: int, bits: int, rows: list[bytes], width: int, extra: bytes = b"") -> bytes:
    """A PNG from its specification; kind: 0 grey, 2 colour, 3 palette, 4 and 6 with opacity."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return head + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def big(values: Pixels) -> list[bytes]:
    """Rows of 16-bit numbers in PNG's byte order."""
    return [row.astype(">u2").tobytes() for row in values]


def tiff(values: Pixels, kind: int, *, colours: int = 1, bits: int | None = None) -> bytes:
    """A TIFF from its specification, one strip, little-endian.

    values: (h, w) of any type, or the packed rows of another number of bits; kind: 1 unsigned,
    2 signed, 3 float; colours: 0 white is zero, 1 black is zero.
    """
    height, width = values.shape
    strip = values.tobytes()
    if bits == 12:  # two numbers in three bytes
        pairs = values.reshape(-1, 2).astype(np.uint32)
        packed = (pairs[:, 0] << 12) | pairs[:, 1]
        strip = b"".join(int(number).to_bytes(3, "big") for number in packed)
    depth = bits or values.dtype.itemsize * 8
    tags = [(256, width), (257, height), (258, depth), (259, 1), (262, colours)]
    tags += [(273, 8), (277, 1), (278, height), (279, len(strip)), (339, kind)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    offset = 8 + len(strip)
    return (
        struct.pack("<2sHI", b"II", 42, offset)
        + strip
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def encoded(pixels: Pixels, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def to_8_bits(values: Pixels, white: float) -> Pixels:
    return np.round(values.astype(np.float64).clip(0, white) * 255 / white)


def on_white(colour: Pixels, opacity: Pixels) -> Pixels:
    share = opacity[..., None] / 255
    return colour * share + 255 * (1 - share)


def raw(content: bytes, expected: Pixels | None = None) -> Writer:
    def write(path: Path) -> Pixels | None:
        path.write_bytes(content)
        return expected

    return write


def turned(kind: str, orientation: int, seen: Pixels, **options: Any) -> Writer:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return raw(encoded(BLOCKS, kind, exif=exif, **options), seen)


def cmyk(kind: str, **options: Any) -> bytes:
    """Four inks: blocks of each, and of all."""
    file = BytesIO()
    inks = np.dstack([BLOCKS, np.full(BLOCKS.shape[:2], 40, np.uint8)])
    Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes()).save(file, kind, **options)
    return file.getvalue()


def palette(*, opacity: bytes | None = None) -> tuple[bytes, Pixels]:
    colours: Pixels = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    places = GREY % 4
    extra = chunk(b"PLTE", colours.tobytes())
    extra += chunk(b"tRNS", opacity) if opacity else b""
    content = png(3, 8, [row.tobytes() for row in places], 16, extra)
    alpha = np.frombuffer(opacity or b"\xff" * 4, np.uint8)[places]
    return content, on_white(colours[places], alpha)


def animated(kind: str, **options: Any) -> bytes:
    file = BytesIO()
    first, second = Image.fromarray(BLOCKS), Image.fromarray(255 - BLOCKS)
    first.save(file, kind, save_all=True, append_images=[second], **options)
    return file.getvalue()


def grey_key(bits: int) -> Writer:
    """Grey of few bits, of which the value 1 is transparent."""
    per_byte = 8 // bits
    values = np.arange(12 * 16).reshape(12, 16) % 2**bits
    shifts = np.arange(per_byte)[::-1] * bits
    rows = [bytes((row.reshape(-1, per_byte) << shifts).sum(1).tolist()) for row in values]
    content = png(0, bits, rows, 16, chunk(b"tRNS", struct.pack(">H", 1)))
    levels = values * 255 // (2**bits - 1)
    return raw(content, np.where(values == 1, 255, levels))


def many_pixels() -> bytes:
    """20000x20000 black pixels in some 400 kB, as a decompression bomb has them."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2501 * 20_000))
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_text_bomb() -> bytes:
    """A PNG whose comment unpacks to 20 MB."""
    text = b"Comment\0\0" + zlib.compress(bytes(20 * 2**20), 9)
    return png(2, 8, [row.tobytes() for row in NOISE], 16, chunk(b"zTXt", text))


def hole(path: Path) -> None:
    """A file of 600 MB that takes no room on the disk."""
    path.write_bytes(encoded(NOISE, "PNG"))
    with path.open("r+b") as file:
        file.truncate(600 * 2**20)


def postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def middle_broken(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


PNG, JPEG = encoded(NOISE, "PNG"), encoded(BLOCKS, "JPEG", quality=100, subsampling=0)
FLOATS: Pixels = GREY.astype(np.float32)
ROTATED: Pixels = np.rot90(BLOCKS, -1)
EXACT: dict[str, Writer] = {
    "16-bit grey.png": raw(png(0, 16, big(DEEP[..., 0]), 16), to_8_bits(DEEP[..., 0], 65535)),
    "16-bit transparent.png": raw(
        png(0, 16, big(DEEP[..., 0]), 16, chunk(b"tRNS", DEEP[3, 4, :1].astype(">u2").tobytes())),
        np.where(DEEP[..., 0] == DEEP[3, 4, 0], 255, to_8_bits(DEEP[..., 0], 65535)),
    ),
    "16-bit colour.png": raw(png(2, 16, big(DEEP.reshape(12, 48)), 16), to_8_bits(DEEP, 65535)),
    "16-bit colour transparent.png": raw(
        png(
            2, 16, big(DEEP.reshape(12, 48)), 16, chunk(b"tRNS", DEEP[3, 4].astype(">u2").tobytes())
        ),
        np.where((DEEP[3, 4] == DEEP).all(2, keepdims=True), 255, to_8_bits(DEEP, 65535)),
    ),
    "16-bit with opacity.png": raw(
        png(4, 16, big(DEEP[..., :2].reshape(12, 32)), 16),
        on_white(DEEP[..., :1] / 257, DEEP[..., 1] / 257)[..., 0],
    ),
    "16-bit grey.tiff": raw(tiff(DEEP[..., 0], 1), to_8_bits(DEEP[..., 0], 65535)),
    "16-bit white is zero.tiff": raw(
        tiff(DEEP[..., 0], 1, colours=0), 255 - to_8_bits(DEEP[..., 0], 65535)
    ),
    "16-bit signed.tiff": raw(
        tiff(DEEP[..., 0].view(np.int16), 2), to_8_bits(DEEP[..., 0].view(np.int16), 32767)
    ),
    "12-bit.tiff": raw(tiff(DEEP[..., 0] >> 4, 1, bits=12), to_8_bits(DEEP[..., 0] >> 4, 4095)),
    "32-bit unsigned.tiff": raw(
        tiff(DEEP[..., 0].astype(np.uint32) << 16, 1), to_8_bits(DEEP[..., 0], 65536)
    ),
    "32-bit signed.tiff": raw(
        tiff(DEEP[..., 0].astype(np.int32) << 14, 2), to_8_bits(DEEP[..., 0], 131072)
    ),
    "float to 1.tiff": raw(tiff(FLOATS / np.float32(255), 3), GREY),
    "float to 255.tiff": raw(tiff(FLOATS, 3), GREY),
    "float to 65535.tiff": raw(tiff(FLOATS * 257, 3), GREY),
    "float a little over.tiff": raw(tiff(FLOATS / 200, 3), to_8_bits(FLOATS, 200)),
    "float below 0.tiff": raw(
        tiff(FLOATS / 255 - np.float32(0.5), 3), to_8_bits(FLOATS - 127.5, 255)
    ),
    "8-bit white is zero.tiff": raw(tiff(GREY, 1, colours=0), 255 - GREY),
    "1 bit.png": raw(
        png(0, 1, [np.packbits(row > 127).tobytes() for row in GREY], 16), (GREY > 127) * 255
    ),
    "1 bit transparent.png": grey_key(1),
    "2 bits transparent.png": grey_key(2),
    "4 bits transparent.png": grey_key(4),
    "palette.png": raw(*palette()),
    "palette with opacity.png": raw(*palette(opacity=bytes([0, 128, 255, 64]))),
    "opacity.png": raw(encoded(np.dstack([NOISE, CLEAR]), "PNG"), on_white(NOISE, CLEAR)),
    "opacity.webp": raw(
        encoded(np.dstack([NOISE, CLEAR]), "WEBP", lossless=True, exact=True),
        on_white(NOISE, CLEAR),
    ),
    "opacity.tiff": raw(encoded(np.dstack([NOISE, CLEAR]), "TIFF"), on_white(NOISE, CLEAR)),
    "four inks.tiff": raw(cmyk("TIFF"), (255.0 - BLOCKS) * 215 / 255),
    "turned.png": turned("PNG", 6, ROTATED),
    "turned.tiff": turned("TIFF", 6, ROTATED),
    "turned.webp": turned("WEBP", 6, ROTATED, lossless=True),
    "mirrored.png": turned("PNG", 2, BLOCKS[:, ::-1]),
    "senseless orientation.png": turned("PNG", 77, BLOCKS),
    "animated.png": raw(animated("PNG"), BLOCKS),
    "animated.webp": raw(animated("WEBP", lossless=True), BLOCKS),
    "two pages.tiff": raw(animated("TIFF"), BLOCKS),
    "interlaced row of one.png": raw(encoded(NOISE[:1, :1], "PNG"), NOISE[:1, :1]),
    "really a jpeg.png": raw(JPEG, BLOCKS),
    "really a png.jpg": raw(PNG, NOISE),
    "more after its end.png": raw(PNG + b"appended", NOISE),
    "no end mark.jpg": raw(JPEG[:-2] + b"\xff\xd9\0\0", BLOCKS),
}
LOSSY: dict[str, Writer] = {
    "turned.jpg": turned("JPEG", 6, ROTATED, quality=100, subsampling=0),
    "four inks, Adobe's way round.jpg": raw(
        cmyk("JPEG", quality=100), (255.0 - BLOCKS) * 215 / 255
    ),
    "animated.gif": raw(animated("GIF"), BLOCKS),
    "broken EXIF.jpg": raw(
        encoded(BLOCKS, "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
        BLOCKS,
    ),
    "progressive.jpg": raw(
        encoded(BLOCKS, "JPEG", quality=100, subsampling=0, progressive=True), BLOCKS
    ),
}
BAD: dict[str, Callable[[Path], object]] = {
    "empty.png": raw(b""),
    "text.jpg": raw(b"not an image\n"),
    "page.png": raw(b"<!DOCTYPE html><html><body>404</body></html>"),
    "header alone.png": raw(PNG[:33]),
    "half.png": raw(PNG[: len(PNG) // 2]),
    "half.jpg": raw(JPEG[: len(JPEG) // 2]),
    "all but the last pixels.jpg": raw(JPEG[:-30]),
    "half.gif": raw(encoded(NOISE, "GIF")[:850]),
    "double.tiff": raw(tiff(GREY / 255, 3)),
    "half.webp": raw(encoded(NOISE, "WEBP")[:60]),
    "half.bmp": raw(encoded(NOISE, "BMP")[:300]),
    "half.tiff": raw(encoded(NOISE, "TIFF", compression="tiff_deflate")[:200]),
    "half.ppm": raw(encoded(NOISE, "PPM")[:300]),
    "one wrong byte.png": raw(middle_broken(PNG)),
    "bomb.png": lambda path: path.write_bytes(many_pixels()),
    "text bomb.png": lambda path: path.write_bytes(with_text_bomb()),
    "huge.png": hole,
    "not numbers.tiff": raw(tiff(np.full((12, 16), np.nan, np.float32), 3)),
    "infinite.tiff": raw(tiff(np.where(GREY > 9, FLOATS, np.inf).astype(np.float32), 3)),
    "unknown white.tiff": raw(tiff(FLOATS * 1e6, 3)),
    "drawing.png": raw(postscript()),
    "folder link.png": lambda path: path.symlink_to(path.parent),
    "nowhere.png": lambda path: path.symlink_to(path.parent / "nothing"),
    "itself.png": lambda path: path.symlink_to(path),
    "null.png": lambda path: path.symlink_to("/dev/null"),
}
