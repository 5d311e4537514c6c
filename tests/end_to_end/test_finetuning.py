"""From weights of others to a model of one's own, through the command line."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_folder import PhotoFolder
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitlit import load
from vitlit.__main__ import main
from vitlit.cli.configs import CONFIGS_FOLDER

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
QUIET += ["--trainer.accelerator=cpu", "--trainer.devices=1"]
TWO = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.max_steps=-1"]
TWO += ["--trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT-B/16 at 224x224 cut to two blocks, as timm would save it: 1,000 classes."""
    torch.manual_seed(0)
    model = VisionTransformer(depth=2)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def last(folder: Path) -> dict[str, Tensor]:
    [file] = folder.glob("lightning_logs/*/checkpoints/last.ckpt")
    state: dict[str, Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return state


@pytest.fixture
def mixed(photo_folder: PhotoFolder) -> Path:
    """Photos of several sizes, JPEG and PNG, grey and colour."""
    root = photo_folder("train+val+test", count=6, size=(60, 90))
    for part in ("train", "val", "test"):
        Image.new("L", (40, 100), 90).save(root / part / "cat" / "grey.png")
        Image.new("RGB", (301, 33), (9, 90, 9)).save(root / part / "dog" / "wide.jpg")
    return root


@pytest.mark.slow
def test_photos_of_mixed_sizes_go_through_fit_test_predict_and_explain(
    mixed: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mixed)
    args = ["--model.pretrained", str(weights), f"--data.data_dir={mixed}", "--data.batch_size=4"]
    assert main(["fit", "--config", "finetune.yaml", "--run=first", *args, *TWO, *QUIET]) == 0
    model, preprocess, names = load("lightning_logs/first")
    assert (names, preprocess.img_size, len(model.blocks)) == (["cat", "dog"], (224, 224), 2)
    assert main(["test", "--ckpt_path", "last", *QUIET]) == 0
    assert main(["predict", "--ckpt_path", "last", "--data.images", "test", *QUIET]) == 0
    with Path("predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    assert {row["class"] for row in rows} <= {"cat", "dog"}
    assert main(["explain", "--ckpt_path", "last", "--count=2", *QUIET]) == 0
    assert Path("explanation/index.html").is_file()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A small ViT in timm's format, of 8x8 images in patches of 4 pixels, five classes."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=64, depth=3, num_heads=1, num_classes=5
    )
    torch.nn.init.normal_(model.head.weight)
    path = tmp_path / "tiny.pth"
    torch.save(model.state_dict(), path)
    return path


def fit(tiny: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> dict[str, Tensor]:
    monkeypatch.chdir(tiny.parent)
    options = ["--data.dataset=digits", "--data.batch_size=16", *TWO, *QUIET]
    assert main(["fit", "--model.pretrained", str(tiny), *options, *args]) == 0
    return last(tiny.parent)


def test_the_architecture_follows_from_the_weights(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        state = fit(tiny, monkeypatch, "--model.lr=1e-12")
    given = torch.load(tiny, weights_only=True)
    for name in ("blocks.2.mlp.fc2.weight", "pos_embed", "cls_token", "norm.weight"):
        torch.testing.assert_close(state[f"vit.{name}"], given[name])
    summed = given["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(state["vit.patch_embed.proj.weight"], summed)
    assert state["vit.head.weight"].shape == (10, 64)
    assert any("head" in text for text in caplog.messages if text.startswith("weights: "))


def changed(state: dict[str, Tensor], given: dict[str, Tensor]) -> set[str]:
    same_shape = {n: v for n, v in given.items() if state[f"vit.{n}"].shape == v.shape}
    return {
        name for name, value in same_shape.items() if not torch.equal(state[f"vit.{name}"], value)
    }


def test_frozen_blocks_do_not_change_and_have_no_state(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = fit(tiny, monkeypatch, "--model.freeze_blocks=2", "--model.lr=0.1")
    moved = changed(state, torch.load(tiny, weights_only=True))
    assert moved
    assert all(name.startswith(("blocks.2.", "norm.", "head.")) for name in moved)
    [file] = tiny.parent.glob("lightning_logs/*/checkpoints/last.ckpt")
    optimizer = torch.load(file, weights_only=True)["optimizer_states"][0]
    assert len(optimizer["state"]) == 12 + 2 + 2  # of a block, the norm and the head


def test_the_head_alone_can_be_trained(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = fit(tiny, monkeypatch, "--model.freeze_blocks=-1", "--model.lr=0.1")
    assert changed(state, torch.load(tiny, weights_only=True)) == set()
    assert state["vit.head.weight"].abs().max() > 0


def test_what_is_frozen_stays_so_where_a_run_goes_on(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tiny, monkeypatch, "--model.freeze_blocks=2", "--model.lr=0.1", "--model.schedule=constant")
    [first] = tiny.parent.glob("lightning_logs/*/checkpoints/last.ckpt")
    again = ["fit", f"--ckpt_path={first}", "--trainer.max_epochs=2"]
    assert main([*again, "--run=second", *TWO[1:], *QUIET]) == 0
    file = tiny.parent / "lightning_logs" / "second" / "checkpoints" / "last.ckpt"
    state = torch.load(file, weights_only=True)["state_dict"]
    moved = changed(state, torch.load(tiny, weights_only=True))
    assert all(name.startswith(("blocks.2.", "norm.", "head.")) for name in moved)


def test_published_weights_predict_without_training(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save("a.png")
    args = ["--model.pretrained", str(tiny), "--data.images", "a.png", *QUIET]
    assert main(["predict", *args, "--data.mean=[0.5,0.5,0.5]", "--data.std=[0.5,0.5,0.5]"]) == 0
    with Path("predictions.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    model = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=64, depth=3, num_heads=1, num_classes=5
    ).eval()
    model.load_state_dict(torch.load(tiny, weights_only=True))
    x = torch.from_numpy(np.asarray(Image.open("a.png")).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        probabilities = model(x).softmax(dim=1)[0]
    assert row["class"] == str(int(probabilities.argmax()))
    assert float(row["probability"]) == pytest.approx(float(probabilities.max()), abs=1e-4)


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ("--model.depth=5", ["model.depth 5", "which has 3"]),
        ("--model.embed_dim=32 --model.num_heads=2", ["model.embed_dim 32", "which has 64"]),
        ("--model.freeze_blocks=4", ["freeze_blocks 4", "3 blocks"]),
        ("--model.layer_decay=0", ["layer_decay 0", "above 0"]),
        ("--model.pretrained=nosuch.pth", ["nosuch.pth"]),
    ],
)
def test_a_contradiction_is_one_short_message(
    args: str,
    parts: list[str],
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tiny.parent)
    options = ["--model.pretrained", str(tiny), "--data.dataset=digits", *TWO, *QUIET]
    assert main(["fit", *options, *args.split()]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts), message
    assert len(message.strip().splitlines()) <= 5


def test_a_run_of_ours_is_a_start_too(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tiny, monkeypatch, "--model.lr=1e-3")
    first = last(tiny.parent)
    args = ["--model.pretrained=last", "--data.dataset=digits", "--model.lr=1e-12"]
    assert main(["fit", *args, "--run=second", *TWO, *QUIET]) == 0
    file = tiny.parent / "lightning_logs" / "second" / "checkpoints" / "last.ckpt"
    state = torch.load(file, weights_only=True)["state_dict"]
    torch.testing.assert_close(state, first)


HEADER = re.compile(r"^# vitlit fit .*--model\.pretrained", re.MULTILINE)


def test_every_finetuning_recipe_is_known_by_its_header() -> None:
    files = [path for path in CONFIGS_FOLDER.rglob("*.yaml") if re.search(HEADER, path.read_text())]
    assert len(files) == 7
