"""A ViT for other programs: its weights and settings as timm and transformers name them.

ViT, Preprocess -> Portable -> {name: tensor}, config.json, preprocessor_config.json
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vitlit.errors import InputError
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT


@dataclass(frozen=True)
class Portable:
    """A model that takes ordinary pixels, and what its users must know.

    model: on the CPU, float32, in evaluation mode; its input is ``(pixels / 255 - mean) / std``;
    arguments: of ViT's constructor; mean, std: per channel; interpolation: from a file's size.
    """

    model: ViT
    arguments: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: list[str]
    interpolation: str

    @property
    def output(self) -> str:
        """What it gives; without a head the pooled tokens ``(B, D)``."""
        return "logits" if self.model.num_classes else "features"

    @property
    def input_size(self) -> list[int]:
        """Channels, height and width in pixels."""
        return [self.model.in_chans, *self.model.img_size]


def make_portable(model: ViT, preprocess: Preprocess, class_names: Sequence[str]) -> Portable:
    """The model, sharing its weights, as one that needs no inversion of pixels.

    With p' = 1 - p, (p' - m) / s = -(p - (1 - m)) / s: the sign goes into the patch embedding.
    """
    if len(class_names) != model.num_classes:
        raise InputError(
            f"{len(class_names)} class names for {model.num_classes} outputs; give one for each"
        )
    arguments = model_arguments(model)
    state, mean = model.state_dict(), preprocess.mean
    if preprocess.invert:
        mean = tuple(1 - value for value in mean)
        odd = f"patch_embed.{model.patch_embed.odd}"
        state[odd] = -state[odd]
    with torch.device("meta"):
        copy = ViT(**arguments)
    copy.load_state_dict(state, assign=True)
    # pixels are read at source_size, bicubic; only from there to img_size bilinear
    is_direct = preprocess.source_size == preprocess.img_size
    interpolation = "bicubic" if is_direct else "bilinear"
    return Portable(copy.eval(), arguments, mean, preprocess.std, list(class_names), interpolation)


def model_arguments(model: ViT) -> dict[str, Any]:
    """The arguments that make this model again, without the rates of dropout."""
    return {name: value for name, value in model.config.items() if not name.endswith("_rate")}
