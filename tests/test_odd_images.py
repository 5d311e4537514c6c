"""Odd image files: each is read rightly or refused by name, and none ends a run of predict."""

from pathlib import Path

import numpy as np
import pytest
from odd_files import BAD, EXACT, LOSSY

from vitlit.decoding import ImageInputError, check_file
from vitlit.images import read_crop, read_image

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]
READ = EXACT | LOSSY


@pytest.mark.parametrize("name", READ)
def test_the_pixels_are_those_of_a_viewer(tmp_path: Path, name: str) -> None:
    expected = READ[name](tmp_path / name)
    assert expected is not None
    in_chans = 1 if expected.ndim == 2 else 3
    found = read_image(tmp_path / name, in_chans=in_chans, size=expected.shape[:2]).numpy()
    found = found[0] if in_chans == 1 else found.transpose(1, 2, 0)
    np.testing.assert_allclose(found, expected.astype(float), atol=4 if name in LOSSY else 1.5)


@pytest.mark.parametrize("name", READ)
def test_a_crop_of_everything_is_the_image(tmp_path: Path, name: str) -> None:
    expected = READ[name](tmp_path / name)
    assert expected is not None
    size = expected.shape[:2]
    found = read_crop(
        tmp_path / name, in_chans=3, size=size, choose=lambda height, width: (0, 0, height, width)
    )
    assert np.array_equal(found, read_image(tmp_path / name, in_chans=3, size=size))


@pytest.mark.parametrize("name", READ)
def test_a_look_at_the_header_lets_sound_files_pass(tmp_path: Path, name: str) -> None:
    READ[name](tmp_path / name)
    check_file(tmp_path / name)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, name: str) -> None:
    BAD[name](tmp_path / name)
    with pytest.raises(ImageInputError) as found:
        read_image(tmp_path / name, in_chans=3, size=(8, 8))
    message = str(found.value)
    assert message.startswith(f"cannot read the image {tmp_path / name}: {found.value.reason}; ")
    assert 3 < len(found.value.reason) < 150
