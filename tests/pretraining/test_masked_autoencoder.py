"""``vitlit pretrain`` as a training: what it leaves, how it goes on, and who takes its weights."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from trainings import EVERY_STEP, PLAIN, QUIET, SHORT, SMALL, STATE, same

from vitlit import ImageData, load
from vitlit.__main__ import main
from vitlit.data.batch import Batch
from vitlit.model.vit import ViT
from vitlit.pretraining.masked_autoencoder import MaskedAutoencoder
from vitlit.weights.adapt import adapt_weights
from vitlit.weights.pretrained import load_weights

PRETRAIN = ["pretrain", "--config=digits_pretrain.yaml", "--trainer.accelerator=cpu"]
PRETRAIN += [*QUIET, *SMALL, *SHORT]
TWO_EPOCHS = ["--trainer.max_epochs=2"]
DROPOUT = ["--model.pos_drop_rate=0.2", "--model.drop_path_rate=0.1"]


DIGITS: dict[str, Any] = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "patch_embed": "linear",
}
BARE: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Cut(BaseException):
    """Ends a training as abruptly as an exception can."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a pretraining that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*PRETRAIN, *DROPOUT, *TWO_EPOCHS, "--run=whole"]) == 0
    return folder / "lightning_logs" / "whole"


def content(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return found


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_has_losses_a_picture_and_a_checkpoint_without_classes(whole: Path) -> None:
    assert [row["epoch"] for row in rows(whole)] == ["0", "1"]
    assert all(float(row["val/loss"]) > 0 < float(row["train/loss_epoch"]) for row in rows(whole))
    assert (whole / "reconstructions.png").stat().st_size > 0
    saved = content(whole)
    assert saved["hyper_parameters"]["num_classes"] == 0
    assert saved["hyper_parameters"]["mask_ratio"] == 0.75
    parts = {name.split(".")[0] for name in saved["state_dict"]}
    assert parts == {"vit", "decoder"}
    assert "vit.head.weight" not in saved["state_dict"]


# amid the second of two epochs of 6 batches, and at the end of the first
@pytest.mark.parametrize("step", [8, pytest.param(6, marks=pytest.mark.slow)])
def test_a_pretraining_that_was_cut_off_goes_on_bit_for_bit(
    step: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*PRETRAIN, *DROPOUT, *TWO_EPOCHS, EVERY_STEP, "--run=cut"]
    train, done = MaskedAutoencoder.training_step, []

    def cut_off(self: MaskedAutoencoder, batch: Batch, batch_idx: int) -> torch.Tensor:
        if len(done) == step:
            raise Cut
        done.append(batch.epoch)
        return train(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedAutoencoder, "training_step", cut_off)
        with pytest.raises(Cut):
            main(words)
    run = Path("lightning_logs/cut")
    assert content(run)["global_step"] == step
    assert main(words) == 0
    found, expected = content(run), content(whole)
    for name in STATE:
        assert same(found.get(name), expected.get(name)), name
    kept = ("epoch", "step", "lr", "train/loss_epoch", "val/loss")
    assert [[row[k] for k in kept] for row in rows(run)] == [
        [row[k] for k in kept] for row in rows(whole)
    ]


def test_fit_takes_the_encoder_and_says_what_it_drops(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config=digits.yaml", f"--model.pretrained={whole}", "--run=tuned"]
    words += ["--trainer.accelerator=cpu", *QUIET, "--trainer.max_steps=1", "--model.lr=1e-9"]
    words += ["--trainer.limit_val_batches=1", PLAIN]
    # width and depth come from the weights: digits.yaml has others, so they are given
    assert main([*words, *SMALL]) == 0
    said = caplog.text
    assert "the decoder and the mask token of the pretraining dropped" in said
    assert "head set to zeros for 10 classes" in said
    state, old = content(Path("lightning_logs/tuned"))["state_dict"], content(whole)["state_dict"]
    assert not any(name.startswith("decoder") for name in state)
    for name in state.keys() & old.keys():
        torch.testing.assert_close(state[name], old[name], rtol=0, atol=1e-6)


def test_its_weights_are_those_of_the_checkpoint_and_without_classes(whole: Path) -> None:
    weights = load_weights(whole / "checkpoints" / "last.ckpt")
    assert weights.class_names is None
    old = content(whole)["state_dict"]
    assert {f"vit.{name}" for name in weights.state} == {n for n in old if n.startswith("vit.")}
    model = ViT(**weights.arguments)
    state, _ = adapt_weights(weights, model)
    model.load_state_dict(state)
    assert torch.equal(model.blocks[0].attn.qkv.weight, old["vit.blocks.0.attn.qkv.weight"])
    loaded = load(whole)
    assert loaded.class_names == []
    assert loaded.model(torch.zeros(1, 1, 8, 8)).shape == (1, 16)


def test_a_pretraining_may_start_from_weights(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*PRETRAIN, f"--model.pretrained={whole}", "--trainer.max_steps=1"]) == 0
    assert "the decoder and the mask token of the pretraining dropped" in caplog.text


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images right in a folder, and in folders of it."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(24):
        folder = root / ["", "2024", "2025/holiday"][number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (10 * number, 5 * number, 90)).save(folder / f"{number}.png")
    return root


def test_a_folder_without_classes_is_pretrained_on(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data.img_size=16", "--data.batch_size=4", "--trainer.max_epochs=1"]
    words += ["--trainer.accelerator=cpu", *SMALL, "--run=photos"]
    assert main(["pretrain", str(photos), *words]) == 0
    said = capsys.readouterr().out
    assert "classes" not in said
    assert "--model.pretrained lightning_logs/photos" in said
    record = content(Path("lightning_logs/photos"))
    assert record["datamodule_hyper_parameters"]["unlabelled"] is True
    assert Path("lightning_logs/photos/reconstructions.png").is_file()


def paths_of(data: ImageData, stage: str) -> dict[str, set[str]]:
    data.setup(stage)
    return {
        name: {str(path) for path in split.files(torch.arange(len(split)))}
        for name, split in data.splits.items()
    }


def test_class_folders_are_divided_as_fit_divides_them(
    photo_folder: Callable[..., Path],
) -> None:
    """So that pretraining sees none of the images that a later fit on the folder holds out."""
    settings: dict[str, Any] = {"dataset": "folder", "data_dir": str(photo_folder(count=20))}
    settings |= {"img_size": 16, "patch_size": 4}
    for stage in ("fit", "test"):
        labelled = paths_of(ImageData(**settings), stage)
        assert paths_of(ImageData(**settings, unlabelled=True), stage) == labelled
        assert all(labelled.values())


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--data.labels=labels.csv"], ["labels", "pretraining"]),
        (["--data.class_names=[a,b]"], ["class_names a, b", "pretraining"]),
        (["--checkpoints.monitor=val/acc"], ["checkpoints.monitor val/acc needs labels"]),
        (["--data.unlabelled=false"], ["data.unlabelled", "the command"]),
        (
            ["--model.label_smoothing=0.1"],
            ["unknown option model.label_smoothing", "a config made for pretrain, such as"],
        ),
        (["--data.mixup=0.8"], ["data.mixup 0.8 mixes images and their labels"]),
        (["--data.cutmix=1"], ["data.cutmix 1.0 mixes images"]),
        (["--folds=3"], ["folds 3 asks for tests, and pretrain learns no classes"]),
        (["--model.patch_embed=shifted"], ["patch_embed shifted", "--model.patch_embed"]),
        (["--model.mask_ratio=0.99"], ["mask_ratio 0.99 of 4 patches", "--model.mask_ratio"]),
        (["--model.decoder_dim=6"], ["decoder_dim 6", "--model.decoder_dim"]),
    ],
)
def test_what_needs_labels_or_all_patches_is_refused(
    words: list[str],
    parts: list[str],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    size = ["--data.img_size=16", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", *SMALL]
    assert main(["pretrain", str(photos), *size, *words]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in parts), said


@pytest.mark.parametrize("command", ["test", "predict --data.images a.png", "export", "fit"])
def test_a_checkpoint_without_classes_is_refused_where_they_are_needed(
    command: str, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command.split(), f"--ckpt_path={whole}", "--trainer.accelerator=cpu"]
    assert main([*words, "--trainer.max_epochs=9"] if command == "fit" else words) == 2
    said = capsys.readouterr().err
    assert "comes from pretraining and has no classes" in said
    assert "vitlit fit --model.pretrained" in said


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_validation_loss_is_the_same_for_any_batch_size(kind: str) -> None:
    torch.manual_seed(0)
    module = MaskedAutoencoder(**{**DIGITS, "patch_embed": kind})
    found = []
    for size in (143, 20):
        data = ImageData(patch_size=2, batch_size=size, patchify=kind == "linear")
        [scores] = pl.Trainer(**BARE).validate(module, datamodule=data, verbose=False)
        found.append(scores["val/loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def losses_of(module: MaskedAutoencoder, **settings: Any) -> list[float]:
    """Of two steps and a validation on the digits."""
    found: list[float] = []

    class Note(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *args: Any) -> None:
            found.append(float(outputs["loss"]))

    limits = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}
    trainer = pl.Trainer(**BARE, **limits, callbacks=[Note()])
    trainer.fit(module, ImageData(patch_size=2, batch_size=32, **settings))
    return [*found, float(trainer.callback_metrics["val/loss"])]


@pytest.mark.slow
def test_a_compiled_pretraining_learns_as_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitlit.training.compiling.COMPILER", "aot_eager")
    runs, compiled = [], []
    compile_part = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self, **options: (
            compiled.append(type(self).__name__),
            compile_part(self, **options),
        ),
    )
    for wanted in (False, True):
        torch.manual_seed(0)
        runs.append(losses_of(MaskedAutoencoder(**DIGITS, compile=wanted)))
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)
    assert compiled == ["Encoder", "Decoder"]


def test_a_loss_that_is_not_finite_shows_in_validation() -> None:
    module = MaskedAutoencoder(**DIGITS)
    module.decoder.pixels.bias.data.fill_(float("nan"))
    trainer = pl.Trainer(**BARE, limit_val_batches=1)
    [scores] = trainer.validate(module, ImageData(patch_size=2), verbose=False)
    assert scores["val/loss"] != scores["val/loss"]


def test_copies_of_an_image_in_a_batch_have_masks_of_their_own() -> None:
    module = MaskedAutoencoder(**DIGITS)
    data = ImageData(patch_size=2, batch_size=32, repeated_augment=4)
    pl.Trainer(**BARE, max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(module, data)
    batch = next(iter(data.train_dataloader()))
    places = module.places_of(batch)
    first = batch.sample == batch.sample[0]
    assert first.sum() == 4
    assert len({tuple(row) for row in places[first].tolist()}) > 1
