"""ONNX with the preprocessing inside: what it answers to pictures is what predict answers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from vitlit.__main__ import main
from vitlit.deploy.export import export_model
from vitlit.errors import InputError
from vitlit.images.framing import Framing
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT

CHECKPOINT = Path(__file__).parents[1] / "stored" / "old_checkpoint" / "last.ckpt"
SMALL: dict[str, Any] = {
    "img_size": [32, 48],
    "patch_size": 16,
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
    model = ViT(**{**SMALL, **changes}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def preprocess_of(model: ViT, **changes: Any) -> Preprocess:
    size = model.img_size
    mean, std = (0.4, 0.5, 0.6)[: model.in_chans], (0.2, 0.3, 0.25)[: model.in_chans]
    usual = {"in_chans": model.in_chans, "source_size": size, "img_size": size}
    return Preprocess(**{**usual, "mean": mean, "std": std, **changes})


def session_of(model: ViT, preprocess: Preprocess, out: Path) -> Any:
    names = [f"class {i}" for i in range(model.num_classes)]
    export_model(model, preprocess, names, out, format="onnx", with_preprocessing=True)
    return onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("framing", "changes", "channels"),
    [
        (Framing("cover", 0.9), {}, 3),
        (Framing("letterbox", fill=(9, 99, 199)), {"invert": True}, 3),
        (Framing("squash", 0.8, "bilinear"), {"source_size": (40, 40)}, 1),
    ],
    ids=["cover", "letterbox", "squash"],
)
@torch.no_grad()
def test_the_program_answers_to_pictures_of_any_size_as_the_model_to_their_files(
    framing: Framing, changes: dict[str, Any], channels: int, tmp_path: Path
) -> None:
    model = small_vit(in_chans=channels)
    preprocess = preprocess_of(model, framing=framing, **changes)
    session = session_of(model, preprocess, tmp_path / "out")
    for photo in photographs():
        Image.fromarray(photo).save(tmp_path / "photo.png")
        pixels = preprocess.read(tmp_path / "photo.png")
        wanted = model(preprocess(pixels[None]))[0].softmax(dim=0)
        (got,) = session.run(None, {"image": photo})
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=0, atol=3e-3)


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
