"""``vitlit inspect`` of images with several classes or a number: faults are found there too."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_folder import CLASSES, Painter

from vitlit.__main__ import main

COUNT = 160
SETTINGS = ("--data.img_size=32", "--data.batch_size=8", "--out=found", "--data.mixup=0.2")
COPIES = {f"copy{i}.png": f"{i:03}.png" for i in range(0, 40, 4)}  # many: splits follow the hash
CUT, WRONG = "cut.png", "030.png"


def paint_photos() -> dict[str, tuple[str, ...]]:
    """A folder photos with copies and a truncated file; returns the classes of each image."""
    painter, draws = Painter(), np.random.default_rng(0)
    Path("photos").mkdir()
    given = {}
    for i in range(COUNT):
        has = draws.random(3) < 0.5
        given[f"{i:03}.png"] = tuple(n for n, is_so in zip(CLASSES, has, strict=True) if is_so)
        painter.paint(*given[f"{i:03}.png"]).save(f"photos/{i:03}.png")
    for copy, original in COPIES.items():
        Path("photos", copy).write_bytes(Path("photos", original).read_bytes())
        given[copy] = given[original]
    Path("photos", CUT).write_bytes(Path("photos", "050.png").read_bytes()[:-300])
    return {**given, CUT: given["050.png"]}


def write_labels(column: str, cells: dict[str, str]) -> None:
    with Path("labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", column], *cells.items()])


def inspect(*more: str) -> dict[str, Any]:
    assert main(["inspect", "photos", "--data.labels=labels.csv", *SETTINGS, *more]) == 0
    return json.loads(Path("found/inspection.json").read_text())


def rows(name: str) -> list[dict[str, str]]:
    with Path("found", name).open(newline="") as file:
        return list(csv.DictReader(file))


def check_files(found: dict[str, Any]) -> None:
    """The copies and the truncated file are found, and nothing else of the kind."""
    pairs = rows("duplicates.csv")
    names = [{Path(row[f"file_{one}"]).name for one in "ab"} for row in pairs]
    assert sorted(map(sorted, names)) == sorted(sorted(pair) for pair in COPIES.items())
    crossing = sum(row["split_a"] != row["split_b"] for row in pairs)
    assert 0 < crossing == found["duplicates_between_splits"]
    assert [Path(row["file"]).name for row in rows("unreadable.csv")] == [CUT]
    acts = [one["text"] for one in found["findings"] if one["level"] == "act"]
    assert acts[0].startswith("1 file cannot be read")
    assert any(f"{crossing} pair" in text and "two splits" in text for text in acts)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_faults_among_images_of_several_classes_are_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    true = paint_photos()
    has = set(true[WRONG])
    lacking = CLASSES[0] in has
    given = true | {WRONG: tuple(n for n in CLASSES if (n in has) != (n == CLASSES[0]))}
    given["copy0.png"] = tuple(n for n in CLASSES if n not in true["000.png"])
    write_labels("classes", {name: ";".join(names) for name, names in given.items()})
    found = inspect()
    check_files(found)
    readable = {name: names for name, names in given.items() if name != CUT}
    for name in CLASSES:
        assert sum(found["counts"][name].values()) == sum(name in c for c in readable.values())
    assert sum(found["without_class"].values()) == sum(not c for c in readable.values())
    doubts = [(Path(row["file"]).name, row["neighbours_class"]) for row in rows("labels.csv")]
    assert (WRONG, CLASSES[0] if lacking else f"not {CLASSES[0]}") in doubts
    assert any("1 pair of duplicates with two different labels" in one["text"]
               for one in found["findings"])  # fmt: skip
    assert f"{sum(not c for c in readable.values())} with none of them" in " ".join(
        capsys.readouterr().out.split()
    )


def test_faults_among_images_with_a_number_are_found() -> None:
    sizes = {name: 10 + 5 * len(names) + i / 8 for i, (name, names) in
             enumerate(paint_photos().items())}  # fmt: skip
    sizes |= {copy: sizes[original] for copy, original in COPIES.items()}
    sizes["copy0.png"] += 2.5
    write_labels("size", {name: str(size) for name, size in sizes.items()})
    found = inspect("--data.target=size")
    check_files(found)
    parts = ("train", "val", "test")
    values = np.array([size for name, size in sizes.items() if name != CUT])
    counts = np.array([[int(row[split]) for split in parts] for row in rows("counts.csv")])
    assert counts.sum(axis=1).tolist() == np.histogram(values, bins=10)[0].tolist()
    targets = found["targets"]
    assert min(one["min"] for one in targets.values()) == values.min()
    assert max(one["max"] for one in targets.values()) == values.max()
    texts = [one["text"] for one in found["findings"]]
    assert any("two different targets, which differ by up to 2.5." in text for text in texts)
    assert "neighbours are compared by class" in Path("found/index.html").read_text()
