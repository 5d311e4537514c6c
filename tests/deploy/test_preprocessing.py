"""ONNX with the preprocessing inside: what it answers to pictures is what predict answers."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from small_vit import preprocess_of, small

from vitlit.__main__ import main
from vitlit.deploy.export import export_model
from vitlit.deploy.onnx_steps import preprocessing_text
from vitlit.deploy.portable import make_portable
from vitlit.errors import InputError
from vitlit.images.framing import Framing
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT

CHECKPOINT = Path(__file__).parents[1] / "stored" / "old_checkpoint" / "last.ckpt"
SMALL: dict[str, Any] = {
    "img_size": [32, 48],
    "patch_size": 16,
    "in_chans": 3,
    "num_classes": 5,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
}
SIZES = ((33, 47), (64, 96), (427, 640), (101, 640), (623, 297), (5, 4), (1, 1500), (1501, 3))


def photographs() -> list[Any]:
    """Parts of two photographs, of odd sizes: uint8 ``(h, w, 3)``."""
    pictures = [Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")]
    return [
        np.asarray(pictures[i % 2].resize((width, height), Image.Resampling.BICUBIC))
        for i, (height, width) in enumerate(SIZES)
    ]


def small_vit(**changes: Any) -> ViT:
    torch.manual_seed(0)
    return small(**{**SMALL, **changes}).float()


def session_of(model: ViT, preprocess: Preprocess, out: Path) -> Any:
    names = [f"class {i}" for i in range(model.num_classes)]
    export_model(model, preprocess, names, out, format="onnx", with_preprocessing=True)
    return onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])


KINDS: dict[str, tuple[Framing, dict[str, Any], int]] = {
    "cover": (Framing("cover", 0.9), {}, 3),
    "letterbox": (Framing("letterbox", fill=(9, 99, 199)), {"invert": True}, 3),
    "squash": (Framing("squash", 0.8, "bilinear"), {"source_size": (40, 40)}, 1),
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_pictures_of_any_size_are_prepared_as_their_files_are(kind: str, tmp_path: Path) -> None:
    framing, changes, channels = KINDS[kind]
    model = small_vit(in_chans=channels)
    preprocess = preprocess_of(model, framing=framing, **changes)
    portable = make_portable(model, preprocess, [f"class {i}" for i in range(5)])
    text = '<ir_version: 10, opset_import: ["": 18]>' + preprocessing_text(portable, preprocess)
    program = onnx.parser.parse_model(text)
    session = onnxruntime.InferenceSession(program.SerializeToString())
    std = torch.tensor(portable.std).view(-1, 1, 1)
    plain = replace(preprocess, mean=portable.mean, invert=False)
    for photo in photographs():
        Image.fromarray(photo).save(tmp_path / "photo.png")
        wanted = plain(preprocess.read(tmp_path / "photo.png")[None])[0]
        (got,) = session.run(None, {"image": photo})
        levels = 255 * std * (torch.from_numpy(got[0]) - wanted).abs()
        assert levels.max() < 2.01  # of 255 grey levels: Resize rounds some the other way
        assert levels.mean() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_program_answers_to_pictures_of_any_size_as_the_model_to_their_files(
    kind: str, tmp_path: Path
) -> None:
    framing, changes, channels = KINDS[kind]
    model = small_vit(in_chans=channels)
    preprocess = preprocess_of(model, framing=framing, **changes)
    session = session_of(model, preprocess, tmp_path / "out")
    for photo in photographs():
        Image.fromarray(photo).save(tmp_path / "photo.png")
        pixels = preprocess.read(tmp_path / "photo.png")
        wanted = model(preprocess(pixels[None]))[0].softmax(dim=0)
        (got,) = session.run(None, {"image": photo})
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=0, atol=3e-3)


@pytest.mark.slow
@torch.no_grad()
def test_a_model_without_a_head_gives_features_of_pictures(tmp_path: Path) -> None:
    model = small_vit(num_classes=0)
    preprocess = preprocess_of(model)
    session = session_of(model, preprocess, tmp_path / "out")
    (photo,) = photographs()[2:3]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    wanted = model(preprocess(preprocess.read(tmp_path / "photo.png")[None]))[0]
    (got,) = session.run(None, {"image": photo})
    torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=0, atol=0.01)
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["input"].startswith("image: uint8 (height, width, 3)")
    assert facts["output"] == "image_features: float32 (16,)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format=pt2"], "preprocess true applies to format onnx; leave it out with pt2"),
        (["--format=onnx", "--quantize=int8"], "quantize int8 needs a program that takes norm"),
    ],
)
def test_preprocessing_is_refused_where_it_has_no_place(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["export", f"--ckpt_path={CHECKPOINT}", f"--out={out}", "--preprocess=true", *words]
    assert main(words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_a_model_of_four_channels_sees_no_pictures(tmp_path: Path) -> None:
    model = small_vit(in_chans=4)
    preprocess = preprocess_of(model, mean=(0.5,) * 4, std=(0.5,) * 4)
    with pytest.raises(InputError, match="model of 1 or 3 channels, and this one has 4"):
        session_of(model, preprocess, tmp_path / "out")


@pytest.mark.slow
def test_the_program_equals_predict_on_twenty_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pictures = {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}

    def crop(name: str, height: int, width: int, file: Path) -> None:
        pixels = pictures[name]
        top = rng.integers(0, pixels.shape[0] - height + 1)
        left = rng.integers(0, pixels.shape[1] - width + 1)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[top : top + height, left : left + width]).save(file)

    for name in pictures:
        for number in range(40):
            crop(name, 120, 150, Path("photos") / name / f"{number}.png")
    for number in range(20):
        size = rng.integers(30, 420), rng.integers(30, 620)
        crop(("china", "flower")[number % 2], *size, Path("odd") / f"{number:02}.png")
    words = ["fit", "photos", "--data.img_size=64", "--model.patch_size=16", "--model.depth=2"]
    words += ["--model.embed_dim=48", "--model.num_heads=3", "--trainer.max_epochs=12", "--run=own"]
    words += ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--data.batch_size=16"]
    assert main(words) == 0
    assert main(["predict", "--run=own", "--data.images=odd", "--out=found.csv"]) == 0
    assert main(["export", "--run=own", "--format=onnx", "--preprocess=true"]) == 0
    session = onnxruntime.InferenceSession("export/model.onnx")
    with Path("found.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    differences = []
    for row in rows:
        (got,) = session.run(None, {"image": np.asarray(Image.open(row["file"]))})
        assert ("china", "flower")[got.argmax()] == row["class"]
        differences.append(abs(got.max() - float(row["probability"])))
    print(f"maximum difference {max(differences):.1e}")  # pytest -s shows it
    assert max(differences) < 1e-3
