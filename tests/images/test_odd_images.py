"""Odd image files: each is read rightly or refused by name, and none ends a run of predict."""

import csv
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from odd_files import BAD, EXACT, LOSSY, chunk
from PIL import Image

from vitlit.__main__ import main
from vitlit.errors import InputError
from vitlit.images.bad_images import refuse_bad_images
from vitlit.images.image_io import ImageInputError, check_image_file, read_crop, read_image
from vitlit.images.image_store import BadFile

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
    check_image_file(tmp_path / name)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, name: str) -> None:
    BAD[name](tmp_path / name)
    with pytest.raises(ImageInputError) as found:
        read_image(tmp_path / name, in_chans=3, size=(8, 8))
    message = str(found.value)
    assert message.startswith(f"cannot read the image {tmp_path / name}: {found.value.reason}; ")
    assert 3 < len(found.value.reason) < 150


def only_header(path: Path, side: int) -> Path:
    """A PNG that says it has side x side pixels, and has none."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", b""), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize("side", [13_378, 18_000])  # 179 and 324 megapixels
def test_too_many_pixels_are_refused_even_where_pillow_allows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageInputError, match="more than the maximum of 178,956,970 pixels"):
        check_image_file(only_header(tmp_path / "large.png", side))


def test_as_many_pixels_as_the_maximum_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    check_image_file(only_header(tmp_path / "large.png", 13_377))  # 178,944,129 pixels


# -- whole runs -------------------------------------------------------------------------------

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2", *QUIET]
RAW_NAME = os.fsdecode(b"caf\xe9.png")  # Latin-1


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, one with every odd file, and one with two bad ones."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config=digits.yaml", "--config=debug.yaml", *SMALL]) == 0
    (folder / "odd" / ".hidden").mkdir(parents=True)
    (folder / "bad").mkdir()
    for name, write in {**READ, **BAD}.items():
        write(folder / "odd" / name)
    for name in ("line\nbreak.png", RAW_NAME, ".hidden.png", ".hidden/x.png"):
        READ["16-bit grey.png"](folder / "odd" / name)
    for name in ("half.png", "text.jpg"):
        BAD[name](folder / "bad" / name)
    os.mkfifo(folder / "odd" / "pipe.png")
    (folder / "odd" / "loop").symlink_to(folder / "odd")
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_predict_names_what_it_can_and_lists_the_others(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num_workers: int,
) -> None:
    monkeypatch.chdir(home)
    out = tmp_path / "found.csv"
    args = ["predict", "--ckpt_path=last", "--data.images", "odd", f"--out={out}", *QUIET]
    assert main([*args, "--data.batch_size=7", f"--data.num_workers={num_workers}"]) == 0
    with out.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    names = [*READ, "line\nbreak.png", RAW_NAME]
    good = [row["file"] for row in rows if not row["error"]]
    assert good == sorted(f"odd/{name}" for name in names)
    bad = len(BAD) - 1 + 1  # a link to a folder is a loop here, and there is the pipe
    reasons = {row["file"]: row["error"] for row in rows if row["error"]}
    assert len(reasons) == bad  # all of them, where the screen shows ten
    assert reasons["odd/half.png"] == "truncated"
    assert {(row["class"], row["top5"]) for row in rows if row["error"]} == {("", "")}
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    text = capsys.readouterr().out
    assert f"{bad} of {bad + len(names)} images cannot be read:" in text
    assert f"… and {bad - 10} more" in text


def test_predict_of_bad_files_alone_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    args = ["predict", "--ckpt_path=last", "--data.images", "bad", "--out=none.csv", *QUIET]
    assert main(args) == 2
    assert "2 of 2 images cannot be read, the first is bad/half.png" in capsys.readouterr().err
    with (home / "none.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2  # their names and the reasons, for whoever repairs them
    assert all(row["file"].startswith("bad/") and row["error"] for row in rows)


def test_one_bad_file_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    bad = [BadFile(0, "notes.txt", "not an image")]
    with pytest.raises(InputError, match=r"1 of 1 image .* notes\.txt \(not an image\); fix it"):
        refuse_bad_images(bad, 1, "fix it", argument="images")
    assert capsys.readouterr() == ("", "")


def test_explain_refuses_with_a_list(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(home)
    shutil.copytree("bad", "some_bad")
    READ["turned.png"](home / "some_bad" / "good.png")
    args = ["explain", "--ckpt_path=last", "--data.images", "some_bad", "--out=none", *QUIET]
    assert main(args) == 2
    assert "2 of 3 images cannot be read:" in caplog.text
    assert "some_bad/text.jpg: not an image" in caplog.text
    assert not (home / "none").exists()


def test_fit_refuses_before_a_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            READ["turned.png"](tmp_path / "photos" / name / f"{number}.png")
    BAD["half.jpg"](tmp_path / "photos" / "dog" / "x.jpg")
    args = ["fit", "--config=debug.yaml", "--data.dataset=folder", "--data.data_dir=photos"]
    args += ["--data.img_size=32", *SMALL, "--trainer.accelerator=cpu"]
    assert main(args) == 2
    assert "1 of 41 images cannot be read" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.ckpt")) == []
    assert main([*args, "--data.on_bad_image=skip"]) == 0
