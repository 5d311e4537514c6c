"""``vitlit inspect`` as a whole: it finds every planted fault, and nothing in a clean folder."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from planted_folder import CLASSES, COPIES, COUNTS, CUT, ODD, SWAPPED, write_clean, write_planted
from small_vit import preprocess_of, small

from vitlit.__main__ import main
from vitlit.deploy.export import export_model

SETTINGS = ("--data.img_size", "32", "--data.batch_size", "8", "--out", "found")


def inspect(root: Path, *more: str) -> dict[str, Any]:
    assert main(["inspect", str(root), *SETTINGS, *more]) == 0
    return json.loads(Path("found", "inspection.json").read_text())


def rows(name: str) -> list[dict[str, str]]:
    with Path("found", name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_clean_folder_has_nothing_to_act_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clean(here / "photos")
    found = inspect(here / "photos")
    assert [one for one in found["findings"] if one["level"] == "act"] == []
    assert rows("duplicates.csv") == rows("labels.csv") == rows("unreadable.csv") == []
    assert found["counts"] == dict.fromkeys(CLASSES, COUNTS)
    assert found["labels_checked"] == found["images"] == 96
    assert "act on      nothing" in capsys.readouterr().out
    assert "Nothing: no unreadable file" in Path("found", "index.html").read_text()


@pytest.mark.parametrize("memory_gb", ["4", pytest.param("0", marks=pytest.mark.slow)])
def test_every_planted_fault_is_found_and_nothing_else(
    memory_gb: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = here / "photos"
    write_planted(root)
    found = inspect(root, "--data.memory_gb", memory_gb)

    def short(path: str) -> str:
        return Path(path).relative_to(root).as_posix()

    pairs = rows("duplicates.csv")
    assert {(short(row["file_b"]), (short(row["file_a"]), row["kind"])) for row in pairs} == set(
        COPIES.items()
    )
    assert len(pairs) == len(COPIES)
    doubts = {short(row["file"]): row["neighbours_class"] for row in rows("labels.csv")}
    assert doubts == SWAPPED
    assert [(short(row["file"]), row["reason"]) for row in rows("unreadable.csv")] == [
        (CUT, "truncated")
    ]
    assert found["counts"]["cows"]["val"] == 0
    odd = {short(row["file"]): row["colours"] for row in rows("files.csv")}
    assert {file: kind for file, kind in odd.items() if kind != "RGB"} == ODD
    sentences = [one["text"] for one in found["findings"] if one["level"] == "act"]
    starts = ["1 file cannot", "The val split has no image of class cows", "2 pairs of exactly"]
    starts += ["1 pair of images that look", "3 labels may"]
    assert all(map(str.startswith, sentences, starts))
    assert len(sentences) == len(starts)
    shown = capsys.readouterr().out
    assert shown.index("act on ") < shown.index("know ") < shown.index("statistics ")


def test_a_class_without_images_is_said_to_stop_a_training_as_it_does(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clean(here / "photos")
    flat = here / "photos" / "train"  # class folders alone
    (flat / "empty").mkdir()
    found = inspect(flat)
    sentences = [one["text"] for one in found["findings"] if one["level"] == "act"]
    assert [text for text in sentences if "class empty" in text] == [
        "There is no image of class empty. A training refuses to start until there is, or until "
        "the folder of that class is gone."
    ]
    assert main(["fit", str(flat), "--trainer.max_epochs=1"]) == 2
    assert "for class empty" in capsys.readouterr().err


def test_names_are_said_without_escape_sequences(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clean(here / "photos")
    for number, split in enumerate(COUNTS):
        (here / "photos" / split / "\x1b[2Jempty").mkdir()
        rare = here / "photos" / split / "\x1b[31mrare"
        rare.mkdir()
        Image.new("RGB", (40, 40), (number, 0, 0)).save(rare / "0.png")
    inspect(here / "photos")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"There is no image of class \x1b[2Jempty." in shown
    for split in COUNTS:
        (here / "photos" / split / "\x1b[2Jempty").rmdir()
    inspect(here / "photos", "--out", "again")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"class \x1b[31mrare has 1." in shown
    for name in ("cat", "dog"):
        (here / "broken" / name).mkdir(parents=True)
        for i in range(10):
            (here / "broken" / name / f"\x1b[2J{i}.png").touch()
    assert main(["inspect", str(here / "broken")]) == 2
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert re.search(r"the first is \S*/\\x1b\[2J\d\.png \(empty", shown)


@pytest.mark.parametrize("in_chans", ["1", "3"])
def test_a_set_is_inspected_in_the_colours_of_the_model(here: Path, in_chans: str) -> None:
    """Digits are grey; the first batch stands below the same images in the report."""
    words = ["--config=digits.yaml", f"--data.in_chans={in_chans}", "--out=found"]
    assert main(["inspect", *words]) == 0
    found = json.loads(Path("found", "inspection.json").read_text())
    assert len(found["mean"]) == int(in_chans)
    assert not [one for one in found["findings"] if "mean or the standard" in one["text"]]


def test_a_split_of_broken_files_is_reported_by_features_too(here: Path) -> None:
    root = here / "photos"
    write_clean(root)
    for file in (root / "val").glob("*/*"):
        file.write_bytes(b"broken")
    write_blind_weights(here / "weights")
    inspect(root, "--model.pretrained", "weights")
    assert {Path(row["file"]).parts[-3] for row in rows("unreadable.csv")} == {"val"}


def write_blind_weights(folder: Path) -> None:
    """Weights of a model that has no positions: it sees the patches, not where they are."""
    torch.manual_seed(0)  # with some random weights other images are nearly alike too
    options: Any = {"img_size": [32, 32], "patch_size": 8, "in_chans": 3, "num_classes": 3}
    model = small(**options, pos_embed="none", global_pool="avg")
    export_model(model, preprocess_of(model), CLASSES, folder, naming="vitlit")


def test_a_pair_that_only_features_find_is_reported(here: Path) -> None:
    root = here / "photos"
    image = write_clean(root).paint("bees").resize((32, 32))
    image.save(root / "train/bees/whole.png")
    moved = np.roll(np.asarray(image), (16, 8), axis=(0, 1))  # whole patches of 8 pixels
    Image.fromarray(moved).save(root / "test/bees/moved.png")
    write_blind_weights(here / "weights")
    found = inspect(root)
    assert (rows("duplicates.csv"), found["duplicates"]) == ([], 0)
    Path("found").rename("without")
    found = inspect(root, f"--model.pretrained={here / 'weights'}")
    (pair,) = rows("duplicates.csv")
    files = {Path(pair[name]).relative_to(root).as_posix() for name in ("file_a", "file_b")}
    assert files == {"train/bees/whole.png", "test/bees/moved.png"}
    assert pair["kind"] == "nearly equal features"
    assert int(pair["bits"]) > 7  # its fingerprint is another one
    sentences = [one["text"] for one in found["findings"] if one["level"] == "act"]
    start = "1 pair of images with nearly equal features in two splits (train and test: 1)"
    assert sum(text.startswith(start) for text in sentences) == 1
    assert "nearly equal features" in Path("found", "index.html").read_text()
