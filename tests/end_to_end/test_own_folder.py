"""A folder of one's own photos, through the command line: named, divided, and worked in."""

from pathlib import Path
from typing import Any

import pytest
import torch
from photo_folder import PhotoFolder

from vitlit import load
from vitlit.__main__ import main
from vitlit.data.image_folder import find_class_names
from vitlit.images.find_images import list_images

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
QUIET += ["--trainer.accelerator=cpu", "--trainer.devices=1"]
SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2", "--model.patch_size=8"]
SMALL += ["--data.img_size=16", "--data.batch_size=4", "--trainer.max_epochs=1"]
SMALL += ["--trainer.log_every_n_steps=1"]
FIT = ["fit", *SMALL, *QUIET]


def data_of(run: str) -> dict[str, Any]:
    file = Path("lightning_logs") / run / "checkpoints" / "last.ckpt"
    found: dict[str, Any] = torch.load(file, weights_only=True)["datamodule_hyper_parameters"]
    return found


@pytest.fixture
def photos(photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of eight images; the current folder is the one above."""
    root = photo_folder(count=8)
    monkeypatch.chdir(root.parent)
    return root


def test_fit_takes_a_folder_and_a_recipe_for_it(
    photos: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("INFO"):
        assert main(["fit", "photos/", *SMALL, *QUIET, "--run=first"]) == 0
    assert "using the recipe photos.yaml" in caplog.text
    found = data_of("first")
    assert (found["dataset"], found["data_dir"]) == ("folder", str(photos))
    assert (found["class_names"], found["flip"]) == (["cat", "dog"], True)
    assert "next        vitlit test --run first" in capsys.readouterr().out


def test_fit_takes_a_folder_beside_a_recipe_of_another_data_set(photos: Path) -> None:
    assert main(["fit", "photos", "--config=mnist.yaml", *SMALL, *QUIET, "--run=first"]) == 0
    assert (data_of("first")["dataset"], data_of("first")["rotation"]) == ("folder", 12)


@pytest.mark.parametrize("recipe", ["digits.yaml", "cifar10.yaml"])
def test_another_data_set_beside_own_photos_is_refused_with_the_flag_that_helps(
    recipe: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FIT, "--config", recipe, "--data.data_dir=photos"]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert f"which data.dataset {recipe[:-5]} does not read" in message
    assert "give --data.dataset folder" in message
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]
    assert sorted(path.name for path in photos.iterdir()) == ["cat", "dog"]


def test_own_photos_without_the_name_of_a_data_set_are_a_folder(photos: Path) -> None:
    assert main([*FIT, "--data.data_dir=photos", "--run=first"]) == 0
    assert data_of("first")["dataset"] == "folder"


def test_the_next_command_is_no_test_where_nothing_is_to_be_tested(
    photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photo_folder("train+val", count=6)
    monkeypatch.chdir(root.parent)
    assert main([*FIT, "--data.data_dir=photos"]) == 0
    text = capsys.readouterr().out
    assert "vitlit test" not in text
    assert "next        vitlit predict --run " in text


def test_what_commands_write_into_the_data_folder_is_never_read_as_images(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    before = list_images(photos)
    assert main([*FIT, "--data.data_dir=.", "--run=first"]) == 0
    use = ["--ckpt_path=last", *QUIET]
    for words in (
        ["test"],
        ["test", "--out=scores"],
        ["explain", "--count=1"],
        ["probe", "--k=1"],
        ["probe", "--data.images", "cat", "--out=alike"],
        ["anomaly", "--normal", "cat", "--data.images", "dog"],
        ["export"],
        ["predict", "--data.images=.", "--out=first.csv"],
    ):
        assert main([*words, *use]) == 0, words
    Path("lightning_logs/first").rename("moved")
    for folder in ("moved", "scores", "explanation", "probe", "alike", "anomaly", "export"):
        assert Path(folder).is_dir()
    assert list_images(photos) == before
    assert find_class_names("folder", photos) == ["cat", "dog"]
    assert main([*FIT, "--data.data_dir=.", "--run=second"]) == 0
    assert load("lightning_logs/second").class_names == ["cat", "dog"]
    assert len(Path("first.csv").read_text().splitlines()) == 1 + len(before)
