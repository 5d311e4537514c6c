"""Weights of a small model of timm, bare or in a folder with Hugging Face's settings."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "num_classes": 5,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 1.5,
}


def written(file: Path, **changes: Any) -> VisionTransformer:
    """A model of timm with no parameter at zero, whose bare state dict is saved."""
    model = VisionTransformer(**{**SMALL, **changes}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    torch.save(model.state_dict(), file)
    return model


def folder_of(folder: Path, config: dict[str, Any], **changes: Any) -> Path:
    """The folder of such a model with Hugging Face's settings."""
    model = written(folder / "bare.pth", **changes)
    (folder / "bare.pth").unlink()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", **config}))
    return folder
