"""How far apart the logits of the same weights are: in their own library, and loaded here.

Each model is made with random weights, saved as its users save it, and loaded by one call of
``load_weights``; then the way back, through ``export``. Random images, float32, on the CPU; the
distance is relative to the norm of the logits.

    pip install -e '.[test]'
    python benchmarks/logits.py --write      # into logits.md
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import measure
import timm
import torch
import torchvision
import transformers
from timm.models import save_for_hf
from torch import Tensor, nn

from vitlit.deploy.export import export_model
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT
from vitlit.weights.pretrained import load_weights

LIMIT = 1e-4
TIMM: dict[str, dict[str, Any]] = {  # what differs from ViT-Ti/16
    "ViT-Ti/16": {},
    "rectangular, 160x224": {"img_size": (160, 224)},
    "average pooling": {"global_pool": "avg", "class_token": False},
    "no qkv bias": {"qkv_bias": False},
    "four registers": {"reg_tokens": 4},
    "epsilon 1e-3": {"norm_layer": partial(nn.LayerNorm, eps=1e-3)},
    "one channel": {"in_chans": 1},
}
TINY = {"embed_dim": 192, "depth": 12, "num_heads": 3}
Logits = Callable[[Tensor], Tensor]


@torch.no_grad()
def filled(model: Any) -> Any:
    """In evaluation mode, with noise on every parameter: no bias stays 0."""
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def sources(folder: Path) -> Iterator[tuple[str, Path, Logits, dict[str, Any]]]:
    """Name, file or folder, the library's own function, and what the file cannot tell."""
    for number, (name, changes) in enumerate(TIMM.items()):
        model = filled(timm.create_model("vit_tiny_patch16_224", **changes))
        if "norm_layer" in changes:  # which no folder of timm tells
            place, told = folder / f"{number}.pth", {"norm_eps": 1e-3}
            torch.save(model.state_dict(), place)
        else:
            place, told = folder / str(number), {}
            save_for_hf(model, place, model_args=changes, safe_serialization=True)
        yield f"timm, {name}", place, model, told
    size = {"hidden_size": 192, "num_attention_heads": 3, "image_size": 224, "patch_size": 16}
    vit = filled(transformers.ViTForImageClassification(transformers.ViTConfig(**size)))
    vit.save_pretrained(folder / "vit")
    yield "transformers, ViT", folder / "vit", lambda x: vit(x).logits, {}
    settings = transformers.Dinov2WithRegistersConfig(**size)
    dino = filled(transformers.Dinov2WithRegistersModel(settings))
    dino.save_pretrained(folder / "dino")
    yield (
        "transformers, DINOv2 with registers",
        folder / "dino",
        lambda x: dino(x).last_hidden_state[:, 0],
        {},
    )
    model = filled(torchvision.models.vit_b_16())
    torch.save(model.state_dict(), folder / "vit_b_16.pth")
    yield "torchvision, vit_b_16", folder / "vit_b_16.pth", model, {}


def ways_back(folder: Path) -> Iterator[tuple[str, ViT, Logits]]:
    model = filled(ViT(**TINY, img_size=224, patch_size=16, num_classes=10))
    images = Preprocess(3, (224, 224), (224, 224), (0.5,) * 3, (0.5,) * 3)
    names = [str(label) for label in range(10)]
    made = export_model(model, images, names, folder / "timm")
    yield "timm", model, timm.create_model(f"local-dir:{made.folder}", pretrained=True).eval()
    made = export_model(model, images, names, folder / "huggingface", naming="huggingface")
    loaded = transformers.ViTForImageClassification.from_pretrained(made.folder).eval()
    yield "transformers", model, lambda x: loaded(x).logits
    made = export_model(model, images, names, folder / "onnx", format="onnx")
    yield "onnxruntime", model, through_onnx(made.folder / "model.onnx")


def through_onnx(file: Path) -> Logits:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])


@torch.no_grad()
def distance(ours: ViT, theirs: Logits, count: int) -> float:
    images = torch.randn(count, ours.in_chans, *ours.img_size)
    found, expected = ours.eval()(images), theirs(images)
    return float((found - expected).norm() / expected.norm())


def rows(folder: Path) -> Iterator[tuple[str, float]]:
    for name, source, theirs, told in sources(folder):
        weights = load_weights(source)
        model = ViT(**{**weights.arguments, **told})
        model.load_state_dict(weights.state)
        yield f"{name}, loaded here", distance(model, theirs, 2)
    for name, model, theirs in ways_back(folder):
        for count in (1, 4):
            yield f"exported to {name}, batch of {count}", distance(model, theirs, count)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="into logits.md")
    args = parser.parse_args()
    torch.manual_seed(0)
    lines = [measure.row(["weights", "relative distance"]), measure.row(["---", "---"])]
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        for title, gap in rows(Path(name)):
            lines.append(measure.row([title, f"{gap:.1e}"]))
            print(lines[-1], flush=True)
            worst = max(worst, gap)
    print(f"largest {worst:.1e}, limit {LIMIT:.0e}")
    if args.write:
        head = f"# Logits\n\n{datetime.now(UTC).date()}, {measure.packages()}\n\n"
        text = head + f"`{measure.command()}`\n\n" + "\n".join(lines) + "\n"
        Path(__file__).with_suffix(".md").write_text(text)
    return int(not worst <= LIMIT)  # NaN fails too


if __name__ == "__main__":
    raise SystemExit(main())
