"""Images that are part of a larger file: read like files of their own."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_folder import PhotoFolder
from PIL import Image

from vitlit.data.split_record import file_hashes
from vitlit.data.stratify import path_hashes
from vitlit.images.image_bytes import ImageBytes, content_hash, name_hash
from vitlit.images.image_io import ImageInputError, check_image_file, read_crop, read_image


def in_bytes(path: Path, fault: str = "") -> ImageBytes:
    return ImageBytes(f"set.tar/{path.name}", memoryview(path.read_bytes()), fault)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_decoded_like_the_file(tmp_path: Path, kind: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (150, 34, 3), dtype=np.uint8)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(pixels).save(path)
    check_image_file(in_bytes(path))
    how = {"in_chans": channels, "size": (8, 8)}
    assert torch.equal(read_image(in_bytes(path), **how), read_image(path, **how))
    how["choose"] = lambda height, width: (3, 2, 9, 12)
    assert torch.equal(read_crop(in_bytes(path), **how), read_crop(path, **how))


def test_a_fault_names_the_image_and_the_reason(photo_folder: PhotoFolder) -> None:
    path = photo_folder() / "cat" / "0.png"
    whole = in_bytes(path)
    for image, reason in (
        (ImageBytes("a.tar/b.png", memoryview(b"")), "empty"),
        (ImageBytes("a.tar/b.png", whole.content[:150]), "truncated"),
        (ImageBytes("a.tar/b.png", whole.content, "gone"), "gone"),
    ):
        with pytest.raises(ImageInputError, match=rf"a\.tar/b\.png: .*{reason}"):
            check_image_file(image)


@pytest.mark.parametrize("size", [0, 10, 2**16, 2**16 + 1, 2**17, 2**18])
def test_hashes_are_those_of_files(tmp_path: Path, size: int) -> None:
    path = tmp_path / "n" / "é.bin"
    path.parent.mkdir()
    path.write_bytes(content := np.random.default_rng(size).bytes(size))
    assert content_hash(content) == file_hashes([str(path)]).item()
    assert content_hash(memoryview(io.BytesIO(content).getvalue())) == content_hash(content)
    assert name_hash("n/é.bin") == path_hashes([str(path)], tmp_path).item()
