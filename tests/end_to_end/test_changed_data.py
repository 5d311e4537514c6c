"""A folder that changes after a training: what is scored was never trained on."""

import random
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from photo_folder import PhotoFolder
from PIL import Image

from vitlit import ImageData
from vitlit.__main__ import main

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
TINY = ["--data.img_size=8", "--data.batch_size=16", "--trainer.accelerator=cpu"]
TINY += ["--model.patch_size=4", "--model.embed_dim=8", "--model.depth=1", "--model.num_heads=1"]
TINY += ["--trainer.log_every_n_steps=1"]
CLASSES = ("ant", "bee", "cat")
HELD = ("val", "test")


class Photos:
    """A folder of images; ``origin`` tells by the path which image a file was at first.

    anew: the images that were saved anew.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.draw = root, random.Random(0)
        self.origin = {self.name(path): self.name(path) for path in root.rglob("*.*")}
        self.anew: set[str] = set()

    def name(self, path: str | Path) -> str:
        return Path(path).relative_to(self.root).as_posix()

    def some(self, count: int) -> list[str]:
        return self.draw.sample(sorted(self.origin), count)

    def add(self, count: int) -> None:
        for label in CLASSES:
            for number in range(count):
                name = f"{label}/{number}-{len(self.origin)}.png"
                pixels = np.random.default_rng(len(self.origin)).integers(0, 256, (20, 24, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(self.root / name)
                self.origin[name] = name

    def remove(self, names: list[str]) -> None:
        for name in names:
            (self.root / name).unlink()
            del self.origin[name]

    def rename(self, names: dict[str, str]) -> None:
        for name, new in names.items():
            (self.root / name).rename(self.root / new)
            self.origin[new] = self.origin.pop(name)

    def recompress(self, names: list[str]) -> None:
        for name in names:
            image = Image.open(self.root / name).convert("RGB")
            image.save(self.root / name, format="JPEG", quality=60)
            self.anew.add(self.origin[name])

    def move(self, to: Path) -> None:
        self.root = self.root.rename(to)


def used_by_fit(photos: Photos, split: str, rule: Literal["hash", "position"]) -> set[str]:
    """The first names of the images of a split, of the same data without a checkpoint."""
    data = ImageData(
        dataset="folder", data_dir=str(photos.root), img_size=8, patch_size=4, split_by=rule
    )
    data.setup("fit")
    files = data.splits[split].files(torch.arange(len(data.splits[split])))
    return {photos.origin[photos.name(file)] for file in files}


def scored(photos: Photos, split: str, *args: str) -> set[str]:
    """The first names of the images that ``vitlit test`` scores."""
    out = Path(f"report-{len(list(Path().glob('report-*')))}")
    more = [f"--data.data_dir={photos.root}", f"--data.split={split}", f"--out={out}"]
    assert main(["test", *args, *more, *QUIET]) == 0
    with np.load(out / "probabilities.npz") as arrays:
        return {photos.origin[photos.name(str(file))] for file in arrays["files"]}


def seen_in(caplog: pytest.LogCaptureFixture) -> str:
    """The last line on changes."""
    return [line for line in caplog.messages if "since the training" in line][-1]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["hash", "position"])
def test_no_image_that_was_trained_on_is_scored_whatever_became_of_the_folder(
    photo_folder: PhotoFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rule: Literal["hash", "position"],
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = Photos(photo_folder(classes=CLASSES, count=50))
    place = ["--data.dataset=folder", f"--data.data_dir={photos.root}", f"--data.split_by={rule}"]
    assert main(["fit", *place, *TINY, "--run=first", "--trainer.max_epochs=1", *QUIET]) == 0
    run = "--ckpt_path=lightning_logs/first"
    held = {split: scored(photos, split, run) for split in ("val", "test")}
    trained = set(photos.origin) - held["val"] - held["test"]
    assert trained == used_by_fit(photos, "train", rule)
    assert "since the training" not in caplog.text
    first = set(photos.origin)

    def check() -> None:
        for split, old in held.items():
            found = scored(photos, split, run)
            assert found
            assert sum(name in trained for name in found) == 0  # the slow count
            assert found <= old
        known = len(first & photos.origin.keys())
        added, gone = len(photos.origin) - known, 150 - known
        assert f"since the training: {added} images added, {gone} gone" in seen_in(caplog)

    photos.add(5)
    check()
    photos.remove(photos.some(12))
    check()
    photos.rename({name: f"{name[:4]}{i}-{name[4:]}" for i, name in enumerate(photos.some(25))})
    check()
    photos.recompress(photos.some(25))
    check()
    # those that were trained on take the names of those that are gone
    freed = sorted(first - set(photos.origin))[:20]
    old = [name for name, origin in photos.origin.items() if origin in trained - photos.anew]
    by_class = {label: [name for name in old if name.startswith(label)] for label in CLASSES}
    photos.rename({by_class[name[:3]].pop(): name for name in freed})
    check()
    photos.move(tmp_path / "moved")
    check()

    more = [run, "--trainer.max_epochs=2", "--run=second", f"--data.data_dir={photos.root}"]
    more += ["--trainer.log_every_n_steps=1"]
    assert main(["fit", *more, *QUIET]) == 0
    record = torch.load("lightning_logs/second/checkpoints/last.ckpt", weights_only=True)
    assert len(record["ImageData"]["train"]) > len(trained)
    again = {split: scored(photos, split, "--ckpt_path=lightning_logs/second") for split in held}
    assert again["val"] | again["test"] <= held["val"] | held["test"]


def names_in(report: str) -> set[str]:
    with np.load(Path(report) / "probabilities.npz") as arrays:
        return {str(file) for file in arrays["files"]}


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_version_keeps_its_images_and_says_what_it_cannot_know(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = ["--data.dataset=folder", f"--data.data_dir={photo_folder(count=20)}"]
    args = [*place, "--data.split_by=position", *TINY, "--run=new", "--trainer.max_epochs=1"]
    assert main(["fit", *args, *QUIET]) == 0
    assert main(["test", "--ckpt_path=lightning_logs/new", "--out=new", *QUIET]) == 0
    content = torch.load("lightning_logs/new/checkpoints/last.ckpt", weights_only=True)
    del content["ImageData"], content["datamodule_hyper_parameters"]["split_by"]
    torch.save(content, "old.ckpt")
    with pytest.warns(UserWarning, match="does not record which images it held out"):
        assert main(["test", "--ckpt_path=old.ckpt", "--out=old", *QUIET]) == 0
    assert names_in("old") == names_in("new")
    more = ["--ckpt_path=old.ckpt", "--run=on", "--trainer.max_epochs=2"]
    more += ["--trainer.log_every_n_steps=1"]
    with pytest.warns(UserWarning, match="some of the held-out ones may be trained on now"):
        assert main(["fit", *more, *QUIET]) == 0
    assert main(["test", "--ckpt_path=lightning_logs/on", "--out=on", *QUIET]) == 0
    assert names_in("on") == names_in("new")


@pytest.mark.slow
def test_a_fine_tuning_holds_out_what_the_training_of_its_weights_held_out(
    photo_folder: PhotoFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = Photos(photo_folder(classes=CLASSES, count=30))
    place = ["--data.dataset=folder", f"--data.data_dir={photos.root}", *TINY]
    assert main(["fit", *place, "--run=first", "--trainer.max_epochs=1", *QUIET]) == 0
    held = {split: scored(photos, split, "--ckpt_path=lightning_logs/first") for split in HELD}
    photos.add(5)
    again = [*place, "--model.pretrained=lightning_logs/first", "--data.split_seed=7"]
    assert main(["fit", *again, "--run=second", "--trainer.max_epochs=1", *QUIET]) == 0
    assert "has no effect: the images that lightning_logs/first held out" in caplog.text
    for split in HELD:
        found = scored(photos, split, "--ckpt_path=lightning_logs/second")
        assert found
        assert found <= held[split]


def test_a_fine_tuning_from_a_checkpoint_with_another_split_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sets without a record of each image, and of checkpoints of earlier versions."""
    monkeypatch.chdir(tmp_path)
    small = ["--model.patch_size=4", "--model.embed_dim=8", "--model.depth=1"]
    small += ["--model.num_heads=1", "--trainer.max_steps=2", "--trainer.log_every_n_steps=1"]
    assert main(["fit", *small, "--run=a", "--data.split_seed=3", *QUIET]) == 0
    more = ["--model.pretrained=lightning_logs/a", *QUIET]
    with pytest.warns(UserWarning, match="its split_seed was 3, so it may have been trained on"):
        assert main(["fit", *small, "--run=b", *more]) == 0
    assert (
        main(["fit", *small, "--run=c", "--data.split_seed=3", *more]) == 0
    )  # warnings are errors
    with pytest.warns(UserWarning, match="split_seed was 3: it may have been trained on these"):
        assert main(["probe", "--data.dataset=digits", *more]) == 0
