"""The command line end to end, in process: fit, test, validate and predict on the digits."""

import csv
import os
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from photo_folder import PhotoFolder
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import PLAIN

from vitlit import ImageData, load
from vitlit.__main__ import main

SMALL = ["--model.embed_dim=16", "--model.depth=1", "--model.num_heads=2", "--trainer.max_epochs=2"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
CPU = ["--trainer.accelerator=cpu"]
FIT = ["fit", "--config", "digits.yaml", PLAIN, *SMALL, *QUIET]


def reached(text: str, name: str) -> str:
    """What the last lines say of a metric."""
    found = re.search(rf"reached .*?{name} (\S+)", text)
    assert found, text
    return found[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        args = ["--data.crop_padding=1", "--data.invert=true", "--trainer.log_every_n_steps=10"]
        assert main([*FIT, "--run=first", *args]) == 0
    return folder


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def checkpoint(home: Path, name: str = "last") -> Path:
    return home / "lightning_logs" / "first" / "checkpoints" / f"{name}.ckpt"


@pytest.fixture(scope="module")
def scored(home: Path) -> str:
    """What a test of the run prints in a folder that is not the run's."""
    with redirect_stdout(StringIO()) as text:
        assert main(["test", "--ckpt_path", str(checkpoint(home)), *QUIET]) == 0
    return text.getvalue()


def test_fit_leaves_both_checkpoints_the_config_and_logs(home: Path) -> None:
    run = home / "lightning_logs" / "first"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last-1.ckpt",
        "last.ckpt",
    }
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["embed_dim"] == 16
    tags = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    names = ("train/loss", "train/loss_epoch", "train/acc", "val/loss", "val/acc", "val/acc5", "lr")
    assert set(names) <= set(tags)


def test_fit_ends_with_what_was_reached_and_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, "--trainer.max_epochs=1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"reached +val/acc 0\.\d{4}", out)
    command = out.strip().splitlines()[-1].split("vitlit ")[1]
    assert main([*command.split(), *QUIET]) == 0


def test_a_second_run_gets_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main([*FIT, "--config", "debug.yaml"]) == 0
    assert len(list(tmp_path.glob("lightning_logs/*/checkpoints/last.ckpt"))) == 2


def test_the_checkpoint_alone_scores_as_with_its_config(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(at_home / "lightning_logs" / "first" / "config.yaml")
    assert main(["test", "--ckpt_path", "last", *QUIET]) == 0
    alone = capsys.readouterr().out
    assert main(["test", "--config", config, "--ckpt_path", "last", *QUIET]) == 0
    assert alone == capsys.readouterr().out


def test_the_checkpoint_alone_scores_from_another_folder(
    home: Path,
    scored: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["test", "--ckpt_path", str(checkpoint(home)), *QUIET]) == 0
    assert capsys.readouterr().out == scored
    assert not list(tmp_path.iterdir())


def test_the_accuracy_is_that_of_a_plain_loop(home: Path, scored: str) -> None:
    model, preprocess, _ = load(checkpoint(home))
    data = ImageData(patch_size=2)  # only for the pixels: preprocess is the checkpoint's
    data.setup("test")
    split = data.splits["test"]
    with torch.no_grad():
        logits = model(preprocess(split.images.gather(split.members)))
    accuracy = (logits.argmax(dim=1) == split.labels).float().mean()
    assert reached(scored, "test/acc") == f"{accuracy:.4f}"


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_the_score_does_not_depend_on_the_batch_size(
    batch_size: int, home: Path, scored: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["test", "--ckpt_path", str(checkpoint(home)), *QUIET]
    expected = float(reached(scored, "test/loss"))
    assert main([*args, f"--data.batch_size={batch_size}"]) == 0
    assert float(reached(capsys.readouterr().out, "test/loss")) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("split", "count"), [("train", 1295), ("val", 143), ("test", 359)])
def test_any_split_can_be_scored(
    split: str, count: int, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(checkpoint(home))
    assert main(["test", "--ckpt_path", path, f"--data.split={split}", *QUIET]) == 0
    out = capsys.readouterr().out
    assert f"({count:,} images)" in out
    assert f"{split}/acc" in out


def test_a_limited_test_says_how_many_images_it_scored(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--data.batch_size=4", "--trainer.limit_test_batches=2", *QUIET]
    assert main(["test", "--ckpt_path", str(checkpoint(home)), *args]) == 0
    assert "(8 images)" in capsys.readouterr().out


def test_validate_scores_the_validation_split(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(checkpoint(home))
    assert main(["validate", "--ckpt_path", path, *QUIET]) == 0
    validated = reached(capsys.readouterr().out, "val/acc")
    assert main(["test", "--ckpt_path", path, "--data.split=val", *QUIET]) == 0
    assert validated == reached(capsys.readouterr().out, "val/acc")


def test_a_checkpoint_without_a_checksum_is_noted_once(
    at_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "plain.ckpt"
    torch.save(torch.load(checkpoint(at_home), weights_only=True), file)
    with caplog.at_level("INFO"):
        assert main(["test", f"--ckpt_path={file}", f"--out={tmp_path / 'report'}", *QUIET]) == 0
    assert caplog.text.count("has no checksum of its own") == 1


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Digits as image files: grey and colour, of several sizes, one in a folder."""
    data = ImageData(patch_size=2)
    data.setup("test")
    split = data.splits["test"]
    pixels = split.images.gather(split.members[:4])[:, 0].numpy()
    (tmp_path / "more").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "more" / "c.png"]
    Image.fromarray(pixels[0]).save(paths[0])
    Image.fromarray(pixels[1]).convert("RGB").save(paths[1])
    Image.fromarray(np.kron(pixels[2], np.ones((5, 9), np.uint8))).save(paths[2])
    return paths


def predict(home: Path, *args: str) -> int:
    return main(["predict", "--ckpt_path", str(checkpoint(home)), *QUIET, *args])


def test_predict_writes_what_the_loaded_model_says(
    home: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures[0].parent)
    assert predict(home, "--data.images", "a.png", "b.png", "more") == 0
    with Path("predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a.png", "b.png", str(Path("more") / "c.png")]
    model, preprocess, names = load(checkpoint(home))
    assert preprocess.invert
    for row, path in zip(rows, pictures, strict=True):
        with torch.no_grad():
            probabilities = model(preprocess(preprocess.read(path)[None])).softmax(dim=1)[0]
        top = probabilities.topk(5)
        assert row["class"] == names[int(top.indices[0])]
        assert float(row["probability"]) == pytest.approx(float(top.values[0]), abs=1e-4)
        listed = [item.split(":")[0] for item in row["top5"].split(";")]
        assert listed == [names[i] for i in top.indices.tolist()]


def test_predict_never_writes_over_a_file(
    home: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures[0].parent)
    Path("predictions.csv").write_text("mine")
    assert predict(home, "--data.images", "a.png") == 0
    assert Path("predictions.csv").read_text() == "mine"
    assert Path("predictions-2.csv").is_file()
    assert predict(home, "--data.images", "a.png", "--out", "predictions.csv") == 2


EXPLAINED = {"arrays.npz", "distance.png", "filters.png", "heads.png", "index.html"}
EXPLAINED |= {"overview.png", "positions.png"}


def test_explain_writes_figures_arrays_and_a_page_of_validation_images(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["--ckpt_path", str(checkpoint(home)), "--count=12", *QUIET]
    assert main(["explain", *args]) == 0
    assert {path.name for path in Path("explanation").iterdir()} == EXPLAINED
    assert "explanation" in capsys.readouterr().out
    model, preprocess, _ = load(checkpoint(home))
    with np.load("explanation/arrays.npz") as arrays:
        assert str(arrays["names"][0]).startswith("digits val ")
        places = [int(str(name).split()[-1]) for name in arrays["names"]]
        found = torch.from_numpy(arrays["probabilities"])
    data = ImageData(patch_size=2)
    data.setup("validate")
    split = data.splits["val"]
    assert split.labels[places].tolist() == [*range(10), 0, 1]
    with torch.no_grad():
        logits = model(preprocess(split.images.gather(split.members[places])))
    torch.testing.assert_close(found, logits.softmax(dim=1), rtol=1e-4, atol=1e-5)


def test_explain_takes_images_and_a_folder_that_is_new(
    home: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures[0].parent)
    args = ["explain", "--ckpt_path", str(checkpoint(home)), "--data.images", "a.png", "more"]
    assert main([*args, "--out", "seen", *QUIET]) == 0
    with np.load("seen/arrays.npz") as arrays:
        assert [Path(str(name)).name for name in arrays["names"]] == ["a.png", "c.png"]
    assert main([*args, "--out", "seen", *QUIET]) == 2


def test_export_writes_a_model_that_timm_reads(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["export", "--ckpt_path", str(checkpoint(home)), *QUIET]
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert "logits differ by at most" in printed
    assert "use it in vitlit with --model.pretrained export" in printed
    ours, preprocess, _ = load(checkpoint(home))
    theirs = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    pixels = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    [mean], [std] = theirs.pretrained_cfg["mean"], theirs.pretrained_cfg["std"]
    with torch.no_grad():
        expected, found = ours(preprocess(pixels)), theirs((pixels / 255 - mean) / std)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert main([*args, "--out", "export"]) == 2
    assert main([*args, "--format=pt2", "--naming=timm", "--out=other"]) == 2


def test_a_flag_beats_the_config_beats_the_checkpoint_beats_the_default(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("data: {flip: true, val_fraction: 0.3}\n")
    args = ["--config", str(file), "--data.val_fraction=0.4", "--print_config"]
    with pytest.raises(SystemExit) as stop:
        main(["test", "--ckpt_path", str(checkpoint(home)), *args])
    assert not stop.value.code
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["val_fraction"] == 0.4  # flag
    assert config["data"]["flip"] is True  # config
    assert config["data"]["crop_padding"] == 1  # checkpoint
    assert config["model"]["embed_dim"] == 16  # checkpoint
    assert config["model"]["mlp_ratio"] == 4.0  # default


def test_print_config_can_be_used_as_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([*FIT, "--config", "debug.yaml", "--print_config"])
    Path("own.yaml").write_text(capsys.readouterr().out)
    assert main(["fit", "--config", "own.yaml"]) == 0


def test_fit_help_shows_the_arguments_of_the_vit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help", "all"])
    assert not stop.value.code
    out = capsys.readouterr().out
    for option in ("patch_size", "pos_embed", "drop_path_rate", "global_pool", "mlp_ratio"):
        assert f"--model.{option}" in out
    assert "the Transformer's fixed table" in " ".join(out.split())


def test_early_stopping_stops_after_its_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["--early_stopping.patience=1", "--early_stopping.min_delta=1", "--config=debug.yaml"]
    assert main([*FIT, *args, "--trainer.max_epochs=9"]) == 0
    events = EventAccumulator(str(next(tmp_path.glob("lightning_logs/*")))).Reload()
    assert len(events.Scalars("val/acc")) == 2


def test_best_and_early_stopping_follow_the_score_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["--checkpoints.monitor=val/loss", "--early_stopping.patience=7", "--run=a"]
    assert main([*FIT, *args, "--trainer.max_epochs=3"]) == 0
    with (tmp_path / "lightning_logs" / "a" / "history.csv").open() as file:
        lowest = min(float(row["val/loss"]) for row in csv.DictReader(file))
    assert f"best        val/loss {lowest:.4f}" in capsys.readouterr().out
    content = torch.load(tmp_path / "lightning_logs/a/checkpoints/last.ckpt", weights_only=True)
    [stopping] = [name for name in content["callbacks"] if name.startswith("EarlyStopping")]
    assert "'val/loss', 'mode': 'min'" in stopping
    longer = ["--trainer.max_epochs=4", "--ckpt_path=lightning_logs/a", "--run=b"]
    assert main([*FIT, *longer]) == 0
    assert "best        val/loss" in capsys.readouterr().out  # as in the checkpoint


def test_the_average_of_the_weights_is_what_a_run_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, "--ema.decay=0.9"]) == 0
    [file] = tmp_path.glob("lightning_logs/*/checkpoints/last.ckpt")
    content = torch.load(file, weights_only=True)
    name = "vit.head.weight"
    assert not torch.equal(content["state_dict"][name], content["current_model_state"][name])
    assert main(["test", "--ckpt_path", "last", *QUIET]) == 0


def test_a_run_with_an_average_goes_on_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, "--ema.decay=0.9"]) == 0
    again = ["fit", "--ckpt_path=last", "--trainer.max_epochs=3", *QUIET]
    again += ["--trainer.log_every_n_steps=10"]
    assert main([*again, "--ema.decay=0"]) == 2
    assert "give --ema.decay again" in capsys.readouterr().err
    assert main(again) == 0
    newest = max(tmp_path.glob("lightning_logs/*/checkpoints/last.ckpt"), key=os.path.getmtime)
    assert "averaging_state" in torch.load(newest, weights_only=True)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_an_unreadable_image_is_named_where_a_worker_meets_it(
    photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photo_folder("train+val", count=6)
    monkeypatch.chdir(root)
    for path in (root / "train").rglob("*.png"):
        content = bytearray(path.read_bytes())
        content[200] ^= 255  # amid the pixels: header and end are sound
        path.write_bytes(content)
    args = ["--data.dataset=folder", f"--data.data_dir={root}", "--data.img_size=8"]
    args += ["--data.memory_gb=0", "--data.num_workers=2", "--config=debug.yaml"]
    assert main([*FIT, *args]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"vitlit: cannot read the image {root}")
    assert "Traceback" not in message


def test_augmentation_and_mixing_are_options_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["--data.mixup=0.8", "--data.cutmix=1", "--data.auto_augment=trivialaugment"]
    args += ["--data.resized_crop=[0.5, 1]", "--data.off_last={mix: 0.5}", "--data.erasing=0.2"]
    assert main([*FIT, "--config=debug.yaml", *args]) == 0
    [file] = tmp_path.glob("lightning_logs/*/checkpoints/last.ckpt")
    saved = torch.load(file, weights_only=True)["datamodule_hyper_parameters"]
    assert saved["off_last"] == {"mix": 0.5}
    assert saved["resized_crop"] == [0.5, 1.0]
    assert main(["test", "--ckpt_path", "last", *QUIET]) == 0


@pytest.mark.parametrize(("units", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_the_precision_follows_the_device_and_is_said(
    units: bool,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vitlit.model.attention.has_bf16_units", lambda device: units)
    args = ["fit", "--data.dataset=digits", "--model.patch_size=4", *SMALL, *QUIET, *CPU]
    with caplog.at_level("INFO"):
        assert main([*args, "--trainer.fast_dev_run=1"]) == 0
    [said] = [text for text in caplog.messages if text.startswith("precision")]
    assert said.startswith(f"precision   {precision}, chosen for this device")


def test_a_precision_that_is_given_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        assert main([*FIT, *CPU, "--trainer.fast_dev_run=1", "--trainer.precision=64-true"]) == 0
    [said] = [text for text in caplog.messages if text.startswith("precision")]
    assert said.startswith("precision   64-true, as --trainer.precision")


def test_a_config_may_name_a_class_by_the_path_it_had_before_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(
        "trainer: {callbacks: [{class_path: vitlit.history.AttentionPictures}]}\n"
    )
    assert main([*FIT, "--config", "debug.yaml", "--config", "own.yaml"]) == 0


def test_a_user_callback_and_logger_come_from_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(
        "trainer:\n"
        "  logger: {class_path: pytorch_lightning.loggers.CSVLogger, init_args: {save_dir: .}}\n"
        "  callbacks:\n"
        "    - {class_path: pytorch_lightning.callbacks.ModelCheckpoint,\n"
        "       init_args: {dirpath: mine, every_n_epochs: 1, filename: own}}\n"
    )
    assert main([*FIT, "--config", "debug.yaml", "--config", "own.yaml"]) == 0
    assert Path("mine/own.ckpt").is_file()
    [run] = Path("lightning_logs").iterdir()
    assert {"csv", "history.csv", "config.yaml", "checkpoints"} <= {
        path.name for path in run.iterdir()
    }


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ("fit --config nosuch.yaml", ["nosuch.yaml", "lists the shipped ones"]),
        ("fit --config digits.yaml --model.depht 3", ["model.depht", "model.depth"]),
        (
            "fit --config digits.yaml --model.depth three",
            ["depth three", "a whole number"],
        ),
        ("fit --config digits.yaml --model.pos_embed learned", ["learned", "learn", "sincos1d"]),
        ("fit --config digits.yaml --model.img_size 8", ["model.img_size", "data.img_size"]),
        ("fit --config digits.yaml --data.dataset cifar", ["cifar", "cifar10"]),
        ("fit --config digits.yaml --model.patch_size 3", ["patch_size 3", "8x8"]),
        ("fit --config digits.yaml --model.num_heads 5", ["num_heads 5", "embed_dim 48"]),
        ("fit --config digits.yaml --data.dataset folder --data.data_dir .", ["class folders"]),
        ("fit --config digits.yaml --trainer.max_epoch 3", ["trainer.max_epochs"]),
        ("fit --config digits.yaml --trainer.precision 16-true", ["16-true", "bf16-mixed"]),
        ("fit --config digits.yaml --ema.decay 1", ["decay 1", "--ema.decay"]),
        ("fit --config digits.yaml --data.mixup -1", ["mixup -1", "--data.mixup"]),
        ("fit --config digits.yaml --data.auto_augment rand", ["rand", "randaugment"]),
        ('fit --config digits.yaml --data.off_last {"mixup":0.4}', ["'mixup'", "mix"]),
        (
            "fit --config digits.yaml --data.off_last.mix=0.4 --trainer.max_steps 9 "
            "--trainer.max_epochs -1",
            ["off_last", "--trainer.max_epochs"],
        ),
        ("test", ["test needs --ckpt_path"]),
        ("test --ckpt_path nosuch.ckpt", ["nosuch.ckpt"]),
        ("test --ckpt_path last", ["no last checkpoint"]),
        ("predict --ckpt_path CKPT", ["--data.images"]),
        ("predict --ckpt_path CKPT --data.images nosuch.png", ["nosuch.png"]),
        ("predict --ckpt_path CKPT --data.images .", ["no images"]),
        ("explain", ["explain needs --ckpt_path"]),
        ("explain --ckpt_path CKPT --count 65", ["65", "1 to 64"]),
        ("explain --ckpt_path CKPT --data.images nosuch.png", ["nosuch.png"]),
        ("explain --ckpt_path CKPT --fusion sum", ["fusion", "sum", "mean"]),
        ("test --ckpt_path CKPT --model.depth 5", ["model.depth 5", "last.ckpt", "which has 1"]),
        ("tset --ckpt_path CKPT", ["tset", "test"]),
    ],
)
def test_bad_input_is_one_short_message(
    args: str,
    parts: list[str],
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(args.replace("CKPT", str(checkpoint(home))).split()) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts), message
    assert len(message.strip().splitlines()) <= 5
    assert "Traceback" not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model: {img_size: 8}", ["own.yaml", "model.img_size", "data.img_size"]),
        ("model: {dept: 8}", ["model.dept", "model.depth"]),
        ("model: [", ["own.yaml", "YAML"]),
        ("just words", ["own.yaml", "named values"]),
    ],
)
def test_a_bad_config_is_one_short_message(
    text: str,
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(text)
    assert main(["fit", "--config", "digits.yaml", "--config", "own.yaml"]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts), message
    assert len(message.strip().splitlines()) <= 5


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="nosuch"):
        main(["fit", "--config", "nosuch.yaml", "--debug"])


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["help"]])
def test_alone_it_lists_commands_and_configs(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 0
    out = capsys.readouterr().out
    for word in ("fit", "validate", "test", "predict", "explain", "cifar10.yaml", "reference/"):
        assert word in out
