"""A ViT prepared for other programs, which normalise pixels but never invert them.

ViT, Preprocess, class names -> Portable
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from vitlit.errors import InputError
from vitlit.images.framing import Framing
from vitlit.images.preprocess import Preprocess
from vitlit.model.vit import ViT


@dataclass(frozen=True)
class Portable:
    """A model that takes ordinary pixels, and what its users must know.

    model: on the CPU, float32, in evaluation mode; its input is ``(pixels / 255 - mean) / std``;
    arguments: of ViT's constructor; mean, std: per channel; framing: how a file is fitted to
    ``input_size``.
    """

    model: ViT
    arguments: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: list[str]
    framing: Framing

    @property
    def output(self) -> str:
        """The name of its outputs: logits, or features ``(B, D)`` if it has no head."""
        return "logits" if self.model.num_classes else "features"

    @property
    def input_size(self) -> list[int]:
        """Channels, height and width in pixels."""
        return [self.model.in_chans, *self.model.img_size]


def make_portable(model: ViT, preprocess: Preprocess, class_names: Sequence[str]) -> Portable:
    """The same model, with shared weights, for pixels that are not inverted.

    With p' = 1 - p, (p' - m) / s = -(p - (1 - m)) / s: the sign goes into the patch embedding.
    Raises InputError if the number of class names is not that of the outputs.
    """
    if len(class_names) != model.num_classes:
        raise InputError(
            f"{len(class_names)} class names for {model.num_classes} outputs; give one for each"
        )
    arguments = model_arguments(model)
    state, mean = model.state_dict(), preprocess.mean
    if preprocess.invert:
        mean = tuple(1 - value for value in mean)
        # the parameter whose sign is the sign of the input; a new tensor, the model keeps its own
        odd = f"patch_embed.{model.patch_embed.odd}"
        state[odd] = -state[odd]
    with torch.device("meta"):  # assigned weights are shared, so none are drawn or allocated here
        copy = ViT(**arguments)
    copy.load_state_dict(state, assign=True)
    framing = preprocess.framing
    if preprocess.source_size != preprocess.img_size:  # resized once more, by bilinear resampling
        framing = replace(framing, interpolation="bilinear")
    return Portable(copy.eval(), arguments, mean, preprocess.std, list(class_names), framing)


def model_arguments(model: ViT) -> dict[str, Any]:
    """The arguments that rebuild this model for inference, without the rates of dropout."""
    return {name: value for name, value in model.config.items() if not name.endswith("_rate")}
