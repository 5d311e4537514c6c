"""Features: what a model computes inside, for probes, neighbours and other programs.

images (B, C, H, W) or patches (B, N, C*P*P) -> one vector of each image (B, D), or of each patch
(B, N, D)
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vitlit.errors import InputError
from vitlit.model.vit import ViT

FeaturePool = Literal["token", "avg"]
HEADLESS_OUTPUTS = ("features", "patches")  # computed without the head


@dataclass(frozen=True)
class Feature:
    """Which feature: by default the input of the model's head.

    layer: the block whose output is taken, counted from 0, or from the end with -1, -2, …; None is
    the last. pool: token (the class token) or avg (the mean of the patch tokens); None is the
    model's own pooling, but avg for earlier blocks if that has weights (seq and map). The model's
    final norm is applied to the output of the last block only.
    """

    layer: int | None = None
    pool: FeaturePool | None = None

    def check(self, model: ViT) -> None:
        """Raise InputError if the model has no such block or no class token."""
        check_layer(model, self.layer)
        if self.pool == "token" and model.cls_token is None:
            raise InputError(
                "pool token: the model has no class token; give pool avg", argument="pool"
            )

    def __call__(self, model: ViT, x: Tensor) -> Tensor:
        """Features ``(B, D)`` of images ``(B, C, H, W)`` or patches ``(B, N, C*P*P)``."""
        tokens, is_last = tokens_of(model, x, self.layer)
        if self.pool is None and is_last:
            return model.pool(tokens)
        # Seq and map learned to pool the last block; earlier blocks are averaged instead.
        own = "token" if model.global_pool == "token" else "avg"
        pooled = (
            tokens[:, 0]
            if (self.pool or own) == "token"
            else tokens[:, model.num_prefix_tokens :].mean(dim=1)
        )
        return model.fc_norm(pooled) if is_last else pooled


@dataclass(frozen=True)
class PatchFeature:
    """The tokens of the patches after a block, row by row; layer as in :class:`Feature`.

    After the last block they are those of :meth:`ViT.forward_features` without class token and
    registers.
    """

    layer: int | None = None

    def check(self, model: ViT) -> None:
        """Raise InputError if the model has no such block."""
        check_layer(model, self.layer)

    def __call__(self, model: ViT, x: Tensor) -> Tensor:
        """Tokens ``(B, N, D)`` of images ``(B, C, H, W)`` or patches ``(B, N, C*P*P)``."""
        return tokens_of(model, x, self.layer)[0][:, model.num_prefix_tokens :]


AnyFeature = Feature | PatchFeature


def check_layer(model: ViT, layer: int | None) -> None:
    """Raise InputError if the model has no such block."""
    depth = model.config["depth"]
    if layer is not None and not -depth <= layer < depth:
        raise InputError(
            f"no block {layer}; give a layer from {-depth} to {depth - 1}", argument="layer"
        )


def tokens_of(model: ViT, x: Tensor, layer: int | None) -> tuple[Tensor, bool]:
    """All tokens ``(B, prefix+N, D)`` after a block, and whether it is the last one."""
    depth = model.config["depth"]
    end = depth if layer is None else layer % depth + 1
    tokens = model.embed(x)
    # Later blocks are not run, so an early layer costs its share of a forward pass.
    for block in list(model.blocks)[:end]:
        tokens = block(tokens)
    if end < depth:
        return tokens, False
    return model.norm(tokens), True  # the final norm was trained on these tokens alone
