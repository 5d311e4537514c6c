"""Files read in batches, against one file at a time and against torchvision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from photo_folder import PhotoFolder
from PIL import Image
from torchvision.transforms import v2

from vitlit.augment.geometric import resized_crop_boxes
from vitlit.images import image_store
from vitlit.images.find_images import list_images
from vitlit.images.framing import Framing
from vitlit.images.image_io import read_image
from vitlit.images.image_store import FileImages

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def photos(root: Path, in_chans: int = 3, size: tuple[int, int] = (8, 10)) -> FileImages:
    paths = list_images(root)
    return FileImages(paths, torch.arange(len(paths)), in_chans=in_chans, size=size)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_files_are_decoded_alike_now_and_later(photo_folder: PhotoFolder, in_chans: int) -> None:
    images = photos(photo_folder(), in_chans)
    indices = torch.tensor([5, 0, 5, 7])
    assert torch.equal(images.gather(indices), images.decode_all().gather(indices))


def test_other_files_are_decoded_as_the_first_ones(photo_folder: PhotoFolder) -> None:
    paths, framing = list_images(photo_folder()), Framing("squash", 0.5, "bilinear")
    how = {"in_chans": 1, "size": (8, 10), "framing": framing}
    first = FileImages(paths[:1], torch.tensor([0]), **how)
    wanted = FileImages(paths[1:], torch.arange(7), **how).gather(torch.arange(7))
    assert torch.equal(first.others(paths[1:]).gather(torch.arange(7)), wanted)


def test_decoding_keeps_the_order_over_many_chunks(
    photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_store, "CHUNK_IMAGES", 3)
    images = photos(photo_folder(count=5))
    rows = [read_image(path, in_chans=3, size=(8, 10)) for path in images.paths]
    assert torch.equal(images.decode_all().pixels, torch.stack(rows))


def broken(root: Path) -> FileImages:
    """Eight files, of which the first is truncated and the seventh no image."""
    first, seventh = root / "cat" / "0.png", root / "dog" / "2.png"
    first.write_bytes(first.read_bytes()[:200])
    seventh.write_bytes(b"text")
    return photos(root)


def test_decoding_goes_on_past_files_that_cannot_be_read(photo_folder: PhotoFolder) -> None:
    images = broken(photo_folder())
    taken: list[torch.Tensor] = []
    images.decode(taken.append)
    good = torch.tensor([1, 2, 3, 4, 5, 7])
    assert torch.equal(torch.cat(taken), images.gather(good))


def test_decoding_lists_the_files_that_cannot_be_read(
    photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_store, "CHUNK_IMAGES", 3)
    images = broken(photo_folder())
    first, seventh = images.decode(lambda chunk: None)
    assert first == (0, images.paths[0], "truncated")
    assert seventh[:2] == (6, images.paths[6])


def test_a_look_at_the_files_finds_the_same(photo_folder: PhotoFolder) -> None:
    images = broken(photo_folder())
    assert images.check() == images.decode(lambda chunk: None)


def test_images_keep_their_places_in_memory(photo_folder: PhotoFolder) -> None:
    images = broken(photo_folder())
    places = torch.tensor([7, 1, 5])
    assert torch.equal(images.decode_all().gather(places), images.gather(places))


@pytest.mark.parametrize("index", [0, 6])
def test_no_other_image_takes_the_place_of_a_bad_one(photo_folder: PhotoFolder, index: int) -> None:
    memory = broken(photo_folder()).decode_all()
    with pytest.raises(IndexError):
        memory.gather(torch.tensor([index]))


@pytest.mark.parametrize("in_chans", [1, 3])
def test_random_crops_are_torchvisions_of_the_same_boxes(
    photo_folder: PhotoFolder, in_chans: int
) -> None:
    images = photos(photo_folder(size=(40, 52)), in_chans)
    indices, draws = torch.tensor([3, 0, 6]), torch.rand(3, 22, generator=torch.manual_seed(0))
    found = images.gather_crops(indices, draws, scale=SCALE, ratio=RATIO)
    boxes = resized_crop_boxes(draws, height=40, width=52, scale=SCALE, ratio=RATIO)
    for row, index, box in zip(found, indices.tolist(), boxes.tolist(), strict=True):
        whole = read_image(images.paths[index], in_chans=in_chans, size=(40, 52))
        expected = v2.functional.resized_crop(whole, *box, [8, 10], antialias=True)
        torch.testing.assert_close(row, expected, rtol=0, atol=1)


def test_a_random_crop_depends_on_its_own_draws_alone(photo_folder: PhotoFolder) -> None:
    images = photos(photo_folder())
    draws = torch.rand(4, 22, generator=torch.manual_seed(0))
    together = images.gather_crops(torch.arange(4), draws, scale=SCALE, ratio=RATIO)
    alone = images.gather_crops(torch.tensor([2]), draws[2:3], scale=SCALE, ratio=RATIO)
    assert torch.equal(together[2:3], alone)


def test_a_turned_photo_is_cropped_upright(tmp_path: Path) -> None:
    stored = np.zeros((32, 48, 3), dtype=np.uint8)
    stored[:, :24] = 255  # the left half of what is stored is the top half of what is seen
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "x.jpg", exif=exif)
    images = photos(tmp_path, size=(48, 32))
    draws = torch.full((1, 22), 0.5)
    whole = images.gather_crops(torch.tensor([0]), draws, scale=(1.0, 1.0), ratio=(2 / 3, 2 / 3))
    torch.testing.assert_close(whole, images.gather(torch.tensor([0])), rtol=0, atol=1)
    assert whole[0, :, :20].min() > 200
    assert whole[0, :, 28:].max() < 50
