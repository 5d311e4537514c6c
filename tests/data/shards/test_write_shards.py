"""``vitlit shard``: what it writes, goes on with, and refuses."""

import gc
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import webdataset
from filelock import FileLock
from photo_folder import PhotoFolder
from PIL import Image
from shard_sets import opened, pixels_by_name, shard

from vitlit.__main__ import main
from vitlit.data.shards import write_shards
from vitlit.images.image_bytes import name_hash


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it leaves its files to the collector
def test_webdataset_reads_what_is_written(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder(count=5)
    place = shard(root, tmp_path / "s", "--images=4")
    urls = [str(path) for path in sorted(place.glob("*.tar"))]
    found = {}
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        ending = next(name for name in ("png", "jpg") if name in sample)
        found[f"{sample['__key__']}.{ending}"] = sample[ending], sample["cls"]
    expected = {
        str(path.relative_to(root)): (path.read_bytes(), str(label).encode())
        for label, name in enumerate(("cat", "dog"))
        for path in (root / name).iterdir()
    }
    gc.collect()
    assert found == expected


def test_we_read_what_webdataset_writes(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with webdataset.TarWriter(str(tmp_path / "s" / "a.tar")) as file:
        for i in range(4):
            pixels = torch.full((12, 16, 3), i, dtype=torch.uint8).numpy()
            file.write({"__key__": f"x/{i}", "png": Image.fromarray(pixels), "cls": i % 3})
    images = opened(tmp_path / "s", names=["0", "1", "2"])
    assert images.labels.tolist() == [0, 1, 2, 0]
    assert images.gather(torch.arange(4))[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_the_list_counts_what_there_is(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    place = shard(photo_folder("train+val+test", count=6), tmp_path / "s", "--images=5")
    about = json.loads((place / "shards.json").read_text())
    assert about["class_names"] == ["cat", "dog"]
    for row in about["shards"]:
        assert row["bytes"] == (place / row["file"]).stat().st_size
        assert row["images"] == sum(row["images_of_class"].values()) <= 5
    parts: Counter[str] = Counter()
    for row in about["shards"]:
        parts[row["part"]] += row["images"]
    assert parts == {"train": 12, "val": 12, "test": 12}


def test_shards_mix_the_classes(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    place = shard(photo_folder(count=40, size=(4, 4)), tmp_path / "s", "--images=20")
    rows = json.loads((place / "shards.json").read_text())["shards"]
    assert [set(row["images_of_class"]) for row in rows] == [{"0", "1"}] * 4


def test_equal_folders_give_equal_shards(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder()
    one, two = (shard(root, tmp_path / name) / "all-000000.tar" for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_labels_may_come_from_a_file(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder()
    (tmp_path / "l.csv").write_text("file,class\ncat/0.png,fox\ndog/1.jpg,owl\n")
    images = opened(shard(root, tmp_path / "s", f"--labels={tmp_path / 'l.csv'}"))
    assert [Path(path).parts[-2:] for path in images.paths] in (
        [("cat", "0.png"), ("dog", "1.jpg")],
        [("dog", "1.jpg"), ("cat", "0.png")],
    )


def test_names_that_share_a_key_stay_apart(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder(count=1)
    for name in ("0.gif", "0.tif", "0.1.png", "0.2.png", "0%2E1.png"):
        Image.new("RGB", (16, 12), (len(name), 0, 0)).save(root / "cat" / name)
    images = opened(shard(root, tmp_path / "s"))
    assert len({*images.paths}) == len(images) == 7
    assert len(pixels_by_name(images)) == 7


@pytest.mark.parametrize("is_lost", [False, True])
def test_names_are_those_of_the_folder_with_an_index_made_anew(
    photo_folder: PhotoFolder, tmp_path: Path, is_lost: bool
) -> None:
    root = photo_folder(count=1)
    for name in ("0.gif", "0.tif", "0.png.png", "DSC_1.PNG"):
        Image.new("RGB", (16, 12), (len(name), 0, 0)).save(root / "cat" / name)
    place = shard(root, tmp_path / "s")
    if is_lost:
        for path in place.glob("*.index"):
            path.unlink()
    images = opened(place)
    names = [str(path.relative_to(root)) for path in root.glob("*/*")]
    assert sorted(images.names.inside(i) for i in range(len(images))) == sorted(names)
    assert sorted(images.name_hashes().tolist()) == sorted(map(name_hash, names))


def test_a_shard_that_is_there_is_not_written_again(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, place = photo_folder(), tmp_path / "s"
    words = ["shard", str(root), "--to", str(place), "--images=3"]
    calls = []
    add = write_shards._add

    def stop_late(*args: object) -> None:
        calls.append(args)
        if len(calls) == 5:  # in the second shard
            raise KeyboardInterrupt
        add(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(write_shards, "_add", stop_late)
    assert main(words) == 130
    assert sorted(path.name for path in place.iterdir()) == [
        "all-000000.tar", "all-000000.tar.index", "unfinished",
    ]  # fmt: skip
    before = (place / "all-000000.tar").stat().st_mtime_ns
    assert main(words) == 0
    assert len(calls) == 5 + 5  # the images of the first shard are not read again
    assert (place / "all-000000.tar").stat().st_mtime_ns == before
    assert len(opened(place)) == 8
    assert not (place / "unfinished").exists()


class DeletingLock(FileLock):
    """A lock that deletes its file, as filelock does on Windows and some of its releases do."""

    def _release(self) -> None:
        Path(self.lock_file).unlink(missing_ok=True)
        super()._release()


def test_the_mark_outlives_a_lock_that_deletes_its_file(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, place = photo_folder(), tmp_path / "s"
    words = ["shard", str(root), "--to", str(place)]

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write_shards, "FileLock", DeletingLock)
    with monkeypatch.context() as patch:
        patch.setattr(write_shards, "_add", stop)
        assert main(words) == 130
    assert (place / "unfinished").exists()
    assert main(words) == 0
    assert len(opened(place)) == 8
    assert not {"unfinished", ".unfinished.lock"} & {path.name for path in place.iterdir()}


def test_a_lock_that_a_killed_process_left_is_not_in_the_way(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    place = tmp_path / "s"
    place.mkdir()
    (place / ".unfinished.lock").touch()
    assert len(opened(shard(photo_folder(), place))) == 8


def test_what_has_changed_since_is_written_again(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, place = photo_folder(), tmp_path / "s"
    (root / "cat" / "0.png").rename(tmp_path / "kept.png")
    (root / "cat" / "0.png").write_bytes(b"no image")
    words = ["shard", str(root), "--to", str(place), "--images=3"]
    assert main(words) == 2  # refuses the bad one, and stays unfinished
    (tmp_path / "kept.png").rename(root / "cat" / "0.png")
    Image.new("RGB", (9, 9)).save(root / "dog" / "0.png")
    assert main(words) == 0
    whole = pixels_by_name(opened(place))
    assert len(whole) == 8
    assert not whole["dog/0.png"].any()


def test_bad_images_are_refused_all_at_once_or_left_out(
    photo_folder: PhotoFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, place = photo_folder(), tmp_path / "s"
    (root / "cat" / "0.png").write_bytes(b"no image")
    (root / "dog" / "0.png").write_bytes(b"")
    os.mkfifo(root / "dog" / "5.png")
    words = ["shard", str(root), "--to", str(place)]
    assert main(words) == 2
    assert "3 of 9 images cannot be read" in caplog.text
    assert all(name in caplog.text for name in ("cat/0.png", "dog/0.png: empty", "5.png: a pipe"))
    assert not (place / "shards.json").exists()
    assert main([*words, "--bad_images=skip"]) == 0
    assert "left out images that cannot be read" in caplog.text
    assert len(opened(place)) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos", "--to=photos/s"], "is in .*photos, where its folders would be classes"),
        (["photos", "--to=taken"], "taken exists; give another folder, or remove it"),
        (["photos", "--to=done"], "done holds finished shards; give another"),
        (["gone", "--to=s"], "no folder .*gone; give shard a folder of images$"),
        (["photos"], "required: --to; `vitlit shard --help` lists"),
        (["photos", "--to=s", "--images=0"], "--images 0 is too small; give 1 or more"),
        (["photos", "--to=s", "--megabytes=x"], "invalid int value: 'x'"),
        (["photos", "--to=s", "--bad_images=x"], "'x' is neither refuse nor skip"),
        (["photos", "--to=s", "--labels=gone.csv"], "cannot read labels .*gone.csv"),
        (
            ["photos", "--to=s", "--labels=several.csv"],
            "labels for multi_label, .*vitlit fit photos",
        ),
        (["photos", "--to=s", "--labels=numbers.csv"], "has labels for regression"),
    ],
)
def test_what_cannot_be_done_is_refused(
    photo_folder: PhotoFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    home = photo_folder().parent
    monkeypatch.chdir(home)
    shard(Path("photos"), Path("done"))
    (home / "taken").mkdir()
    (home / "taken" / "thesis.txt").touch()
    Path("several.csv").write_text("file,class\ncat/0.png,cat;dog\n")
    Path("numbers.csv").write_text("file,target\ncat/0.png,1.5\n")
    capsys.readouterr()
    assert main(["shard", *words]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vitlit: ")]
    assert re.search(message, line), line
