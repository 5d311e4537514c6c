"""A CSV file that says which image is of which class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitlit import ImageData
from vitlit.__main__ import main
from vitlit.data.csv_labels import label_names, labelled_images, read_labels
from vitlit.errors import InputError
from vitlit.tasks.task import TaskName

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve images in one folder, and labels.csv beside it."""
    root = tmp_path / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    rows = ["class,note,file"]
    for i in range(12):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i:02}.png")
        rows.append(f"{'dog' if i % 3 else 'cat'},x,{i:02}.png")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def of(photos: Path, **changes: object) -> ImageData:
    settings = {"data_dir": str(photos), "labels": str(photos.parent / "labels.csv")}
    return ImageData(dataset="folder", img_size=8, patch_size=4, **{**settings, **changes})  # type: ignore[arg-type]


def test_the_classes_are_those_that_the_file_names(photos: Path) -> None:
    assert label_names(photos.parent / "labels.csv", photos) == ["cat", "dog"]
    assert of(photos).class_names == ["cat", "dog"]


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_each_image_has_the_class_that_the_file_gives_it(photos: Path, memory_gb: float) -> None:
    data = of(photos, memory_gb=memory_gb)
    for stage in ("fit", "test"):
        data.setup(stage)
    seen = []
    for split in data.splits.values():
        pixels = split.images.gather(split.members)
        for place, label, image in zip(split.members.tolist(), split.labels, pixels, strict=True):
            expected = np.asarray(Image.open(photos / f"{place:02}.png"))
            assert torch.equal(image, torch.tensor(expected).permute(2, 0, 1))
            assert int(label) == int(place % 3 > 0)
            seen.append(place)
    assert sorted(seen) == list(range(12))


def test_labels_follow_the_class_names_of_the_model(photos: Path) -> None:
    file = photos.parent / "labels.csv"
    found = labelled_images(file, photos, ["dog", "bee", "cat"], in_chans=3, size=(8, 8))
    assert found.labels.tolist() == [0 if i % 3 else 2 for i in range(12)]
    with pytest.raises(InputError, match="names the class dog"):
        labelled_images(file, photos, ["bee", "cat"], in_chans=3, size=(8, 8))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no column file and no class"),
        ("file,label\n00.png,cat\n", "no column class"),
        ("file,class\n", "names no images"),
        ("file,class\n00.png,\n", "line 2: 00.png has no class"),
        ("file,class\n00.png\n", "line 2: 00.png has no class"),
        ("file,class\n99.png,cat\n", "line 2: no file"),
        ("file,class\nc\033[31mt.png,cat\n", r"no file .*c\\x1b\[31mt.png; check"),
        ("file,class\n../x.png,cat\n", "is not a file below"),
        ("file,class\n00.png,cat\n\n01.png,1,5\n", "line 4: more cells than columns"),
        ("file,class\n,cat\n", "is not a file below"),
        ("file;class\n00.png;cat\n", "separated by a comma, .* and has 'file;class'"),
        ("file;class\n00.png;cat\n", "semicolons separate its columns"),
        ("file,class\n00.png;cat\n", "line 2: '00.png;cat' is one column; semicolons"),
        ("file,class\n00.png\tcat\n", "line 2: .* is one column; tabs separate"),
        ("file,class\n/data/00.png,cat\n", "line 2: /data/00.png is an absolute path"),
        ("file,class\n00.png,caf\u00e9\n01.png,cafe\u0301\n", "written in two Unicode forms"),
        (
            "file,class\n00.png,cat\n00.png,dog\n",
            "00.png has the class dog, and cat in an earlier line",
        ),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(text: str, part: str, photos: Path) -> None:
    file = photos.parent / "odd.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=part):
        label_names(file, photos)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("file,red,round,by\n00.png,0,1,Ann\n01.png,1,1,Bo\n", "remove what is none of them: by"),
        ("file,classes\n00.png,\n01.png,\n", "names no class; give an image one, in the column c"),
        ("file,class\n00.png,cat\n01.png,cat\n", "one class, cat, .*; name other classes too"),
    ],
)
def test_a_file_without_two_classes_is_refused_with_a_way_out(
    text: str, part: str, photos: Path
) -> None:
    file = photos.parent / "odd.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=part):
        of(photos, labels=str(file))


def test_an_absolute_path_below_the_folder_is_said_as_it_should_be(photos: Path) -> None:
    file = photos.parent / "absolute.csv"
    file.write_text(f"file,class\n{photos / '00.png'},cat\n")
    with pytest.raises(InputError, match=r"relative to data_dir .*, so write 00\.png"):
        read_labels(file, photos)


def test_a_file_whose_name_is_in_another_unicode_form_is_found_out(photos: Path) -> None:
    (photos / "00.png").rename(photos / "cafe\u0301.png")
    file = photos.parent / "composed.csv"
    file.write_text("file,class\ncaf\u00e9.png,cat\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2: no file .* another Unicode form \(NFD\)"):
        read_labels(file, photos)


def test_empty_lines_are_left_out_and_repeats_are_told(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = photos.parent / "again.csv"
    file.write_text("file,class\n00.png,cat\n01.png,dog\n00.png,cat\n,\n")
    assert list(read_labels(file, photos)[0].values()) == ["cat", "dog"]
    assert "again.csv: 1 line repeats an image with the same class" in caplog.text


@pytest.mark.parametrize(
    ("head", "task", "is_told"),
    [
        ("file,class,target", "single_label", True),
        ("file,classes,target", "multi_label", True),
        ("file,class,number", "single_label", False),
        ("file,class,target", "regression", False),
    ],
)
def test_a_column_of_numbers_beside_the_classes_is_told(
    head: str, task: TaskName, is_told: bool, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = photos.parent / f"{head}.csv"
    file.write_text(f"{head}\n00.png,0,1\n01.png,1,0\n")
    read_labels(file, photos, task)
    assert (
        "is read, not target; to read that, set data.target to target" in caplog.text
    ) == is_told


def test_a_file_name_that_is_no_utf8_says_so(photos: Path) -> None:
    file = photos.parent / "latin.csv"
    file.write_bytes("file,class\ncaf\u00e9.png,cat\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"line 2: no file .*; save the table as UTF-8"):
        read_labels(file, photos)


def test_classes_that_are_no_text_are_refused(photos: Path) -> None:
    file = photos.parent / "latin.csv"
    file.write_bytes(b"file,class\n00.png,cl\xe9\n01.png,dog\n")
    with pytest.raises(InputError, match=r"class cl\\udce9 of .*latin\.csv is not text in UTF-8"):
        ImageData(dataset="folder", data_dir=str(photos), labels=str(file))


def test_other_data_sets_have_their_own_labels() -> None:
    with pytest.raises(InputError, match="digits has its own"):
        ImageData(labels="labels.csv")


def test_a_run_remembers_its_labels(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos.parent)
    args = ["--data.dataset=folder", "--data.data_dir=photos", "--data.labels=labels.csv"]
    args += ["--data.img_size=8", "--model.patch_size=4", "--model.embed_dim=8"]
    args += ["--model.depth=1", "--model.num_heads=1", "--config=debug.yaml"]
    assert main(["fit", *args, *QUIET]) == 0
    assert main(["test", "--ckpt_path=last", *QUIET]) == 0
    assert "images)" in capsys.readouterr().out
