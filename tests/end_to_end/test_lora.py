"""Low-rank adapters through the command line: small checkpoints, merged wherever they are used."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pair import Command, run_pair
from PIL import Image
from processes import environment, free_port
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from trainings import STATE, same

from vitlit import load
from vitlit.__main__ import main
from vitlit.errors import InputError
from vitlit.training.classifier import Classifier
from vitlit.training.trainable import check_lora
from vitlit.weights.pretrained import load_weights, read_whole_checkpoint

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
QUIET += ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.precision=32-true"]
TRAIN = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=4", "--trainer.max_steps=-1"]
TRAIN += ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=2"]
TRAIN += ["--data.dataset=digits", "--data.batch_size=16", "--model.lr=0.05"]
LORA = ["--model.lora_rank=2", "--model.lora_alpha=4"]
SAVED = "checkpoints/last.ckpt"


class Cut(BaseException):
    """Ends a training as abruptly as an exception can."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT in timm's format, of 8x8 colour images in patches of 4 pixels, five classes."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=64, depth=2, num_heads=1, num_classes=5
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(model.state_dict(), path)
    return path


def fit(tiny: Path, *args: str) -> None:
    assert main(["fit", "--model.pretrained", str(tiny), *TRAIN, *QUIET, *LORA, *args]) == 0


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with adapters."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit(tiny, "--run=first")
    return folder / "lightning_logs" / "first"


def content(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def test_a_checkpoint_holds_what_was_trained_and_names_the_rest(trained: Path, tiny: Path) -> None:
    found = content(trained / SAVED)
    adapters = {
        f"vit.blocks.{i}.attn.{part}.lora_{side}"
        for i in (0, 1)
        for part in ("qkv", "proj")
        for side in "ab"
    }
    # digits are grey, so the filters were made for one channel; the rest is as in the file
    kept = {"vit.head.weight", "vit.head.bias", "vit.patch_embed.proj.weight"}
    assert set(found["state_dict"]) == adapters | kept
    assert found["base_weights"]["file"] == str(tiny)
    [optimizer] = found["optimizer_states"]
    assert len(optimizer["state"]) == len(adapters) + 2
    assert (trained / SAVED).stat().st_size < tiny.stat().st_size / 3
    weights = sum(
        found["state_dict"][name].nbytes for name in kept | adapters if "patch" not in name
    )
    assert Classifier(**found["hyper_parameters"]).saved_bytes == weights


def test_merged_weights_answer_as_the_trained_model(trained: Path, tiny: Path) -> None:
    model, preprocess, _ = load(trained / SAVED)
    settings = content(trained / SAVED)["hyper_parameters"]
    adapted = Classifier(**settings).eval()
    whole = content(trained / SAVED)
    adapted.on_load_checkpoint(whole)
    adapted.load_state_dict(whole["state_dict"])
    pixels = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        found, expected = model(preprocess(pixels)), adapted(preprocess(pixels))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    base = torch.load(tiny, weights_only=True)
    state = model.state_dict()
    assert torch.equal(state["blocks.1.mlp.fc1.weight"], base["blocks.1.mlp.fc1.weight"])
    assert not torch.equal(state["blocks.1.attn.qkv.weight"], base["blocks.1.attn.qkv.weight"])


def scores(capsys: pytest.CaptureFixture[str]) -> str:
    return next(line for line in capsys.readouterr().out.splitlines() if "accuracy" in line)


def test_every_command_merges_alike(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    file = str(trained / SAVED)
    assert main(["export", "--ckpt_path", file, "--out=exported", *QUIET[2:]]) == 0
    features = []
    for number, start in enumerate(
        (["--ckpt_path", file], ["--model.pretrained=exported"], ["--model.pretrained", file])
    ):
        out = [f"--out={number}.npz", "--output=features", *QUIET[2:]]
        assert main(["predict", *start, "--data.images=a.png", *out]) == 0
        features.append(np.load(f"{number}.npz")["features"])
    np.testing.assert_allclose(features[1], features[0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(features[2], features[0])
    assert main(["explain", "--ckpt_path", file, "--data.images=a.png", *QUIET[2:]]) == 0
    assert main(["compare", file, str(trained / "checkpoints" / "best.ckpt"), *QUIET[2:]]) == 0


def test_scores_are_those_of_the_validation_in_training(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Tensor] = {}

    def note(self: Classifier) -> None:
        found.update(self.trainer.callback_metrics)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Classifier, "on_validation_end", note, raising=False)
    file = str(trained / SAVED)
    limit = ["--trainer.limit_val_batches=2", "--model.lora_rank=7"]  # which a config may hold
    assert main(["validate", "--ckpt_path", file, *limit, *QUIET]) == 0
    with (trained / "history.csv").open(newline="") as opened:
        row = list(csv.DictReader(opened))[-1]
    assert float(found["val/loss"]) == pytest.approx(float(row["val/loss"]), rel=1e-4)


def test_a_training_with_an_average_resumes_within_an_epoch_bit_for_bit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--ema.decay=0.9", "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=3"]
    more += ["--checkpoints.every_n_steps=1", "--model.grad_checkpointing=true", "--run=it"]
    train, steps = Classifier.training_step, 0

    def cut(self: Classifier, *args: Any) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 7:  # the third batch of the second epoch
            raise Cut
        return train(self, *args)

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if name == "whole":
            fit(tiny, *more)
            continue
        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "training_step", cut)
            with pytest.raises(Cut):
                fit(tiny, *more)
        fit(tiny, *more)
    files = [tmp_path / name / "lightning_logs" / "it" / SAVED for name in ("whole", "cut")]
    whole, resumed = map(content, files)
    for part in (*STATE, "base_weights"):
        assert same(whole.get(part), resumed.get(part)), part
    assert set(whole["current_model_state"]) == set(whole["state_dict"])


def test_adapters_are_refused_over_other_weights(
    trained: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(shutil.copy(trained / SAVED, tmp_path))
    changed = content(file)
    changed["base_weights"]["file"] = str(tmp_path / "other.pth")

    def export(name: str, source: str) -> int:
        changed["base_weights"]["source"] = source
        torch.save(changed, file)
        out = ["--out", str(tmp_path / name)]
        return main(["export", "--ckpt_path", str(file), *out, *QUIET[2:]])

    assert export("first", "gone.pth") == 2
    assert "other.pth, which are missing; put the file back" in capsys.readouterr().err
    assert export("second", str(tiny)) == 0  # by its name, as on the hub
    state = torch.load(tiny, weights_only=True)
    state["norm.bias"] += 1
    torch.save(state, tmp_path / "other.pth")
    assert export("third", str(tiny)) == 2
    assert "holds adapters for other weights than" in capsys.readouterr().err
    assert main(["fit", f"--ckpt_path={file}", "--trainer.max_epochs=3", *QUIET]) == 2
    assert "holds adapters for other weights than" in capsys.readouterr().err
    shutil.copy(tiny, tmp_path / "other.pth")
    assert export("fourth", "gone.pth") == 0


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_rope_ape_224", "vit_pe_spatial_base_patch16_512"]
)
def test_rotary_weights_may_lie_beside_the_checkpoint_without_their_config(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32}
    model = timm.create_model(name, **sizes)
    save_for_hf(model, Path("base"), model_args=sizes, safe_serialization=True)
    fit(Path("base"), "--trainer.max_epochs=1", "--run=it")
    file = Path("lightning_logs/it") / SAVED
    before = load(file).model.state_dict()
    shutil.move(Path("base/model.safetensors"), file.parent)
    shutil.rmtree("base")
    after = load(file).model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_adapters_over_merged_adapters_find_all_their_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(trained / SAVED, "--run=second", "--trainer.max_epochs=1")
    second = Path("lightning_logs/second") / SAVED
    assert content(second)["base_weights"]["file"] == str(trained / SAVED)
    first, state = load_weights(trained / SAVED).state, read_whole_checkpoint(second)["state_dict"]
    name = "blocks.0.mlp.fc2.weight"
    assert torch.equal(state[f"vit.{name}"], first[name])
    assert not any("lora" in name for name in state)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--model.lora_rank=3"], "model.lora_rank 3 contradicts"),
        (["--model.lora_alpha=9"], "model.lora_alpha 9.0 contradicts"),
    ],
)
def test_a_training_resumes_with_its_own_adapters_alone(
    words: list[str], reason: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", f"--ckpt_path={trained / SAVED}", "--trainer.max_epochs=3", *words]) == 2
    assert reason in capsys.readouterr().err


def test_adapters_need_weights_to_adapt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *TRAIN, *QUIET, *LORA]) == 2
    assert "model.lora_rank 2 would freeze untrained weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rank", "alpha", "freeze_blocks", "reason"),
    [
        (-1, None, 0, "lora_rank -1 is too small"),
        (0, 2.0, 0, "lora_alpha 2.0 has no effect without lora_rank"),
        (2, 0.0, 0, "lora_alpha 0.0 is not positive"),
        (2, float("nan"), 0, "lora_alpha nan is not positive"),
        (2, None, -1, "freeze_blocks -1 freezes all blocks"),
        (2, None, 3, "freeze_blocks 3 freezes all blocks"),
    ],
)
def test_settings_of_adapters_without_effect_are_refused(
    rank: int, alpha: float | None, freeze_blocks: int, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        check_lora(rank, alpha, freeze_blocks, depth=3)


def test_lower_adapters_train_more_slowly_under_layer_decay(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(tiny, "--model.layer_decay=0.5", "--trainer.max_epochs=1", "--run=slow")
    [optimizer] = content(Path("lightning_logs/slow") / SAVED)["optimizer_states"]
    rates = [group["initial_lr"] for group in optimizer["param_groups"]]
    # adapters of two blocks, then the head's matrix and its bias
    assert rates == pytest.approx([0.0125, 0.025, 0.05, 0.05])


@pytest.mark.slow
def test_two_processes_train_and_resume_the_adapters_of_one(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ["fit", f"--model.pretrained={tiny}", *TRAIN, *QUIET[:2], *LORA, "--run=it"]
    start += ["--model.schedule=constant"]  # a resumed run is planned with its own length
    start += ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    ddp = ["--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=8"]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    assert main([*start, "--trainer.max_epochs=2"]) == 0
    again = ["fit", "--ckpt_path=lightning_logs/it", "--run=more", *QUIET[:2], *ddp]
    again += ["--trainer.accelerator=cpu", "--trainer.max_epochs=2"]
    commands = {
        "first": Command([*start, *ddp, "--trainer.max_epochs=1"], str(tmp_path / "two")),
        "second": Command(again, str(tmp_path / "two")),
    }
    run_pair(commands, tmp_path, environment(), [free_port() for _ in commands])
    one = content(tmp_path / "one" / "lightning_logs" / "it" / SAVED)
    two = content(tmp_path / "two" / "lightning_logs" / "more" / SAVED)
    assert one["base_weights"] == two["base_weights"]
    assert one["global_step"] == two["global_step"] == 8
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-3, atol=1e-4)
