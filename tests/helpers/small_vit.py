"""A small ViT with no parameter at zero, its preprocessing, and maps that no model made."""

from typing import Any

import torch
from torch import Tensor, nn

from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT

GRID = (2, 3)
SMALL: dict[str, Any] = {
    "img_size": [8, 12],
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 5,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
}


def small(**changes: Any) -> ViT:
    """In evaluation mode and float64, with no parameter left at zero."""
    model = ViT(**{**SMALL, **changes}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    for name, seen in model.named_buffers():  # of batch norms
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(seen, 0.5, 2.0)
    return model.eval()


def random_maps(*shape: int) -> Tensor:
    """Rows of positive numbers that sum to 1."""
    return torch.randn(*shape, dtype=torch.float64).mul(2).softmax(dim=-1)


def preprocess_of(model: ViT, **changes: Any) -> Preprocess:
    """For images of the model's size, with another mean and deviation for each channel."""
    size = model.img_size
    mean, std = (0.4, 0.5, 0.6)[: model.in_chans], (0.2, 0.3, 0.25)[: model.in_chans]
    usual = {"in_chans": model.in_chans, "source_size": size, "img_size": size}
    return Preprocess(**{**usual, "mean": mean, "std": std, **changes})
