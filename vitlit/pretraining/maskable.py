"""A ViT with a decoder for masked autoencoding, and its settings: checked, without the training.

patches (B, N, C*P*P), places (B, n) of the visible ones -> loss of the masked ones (B,)
"""

import math
from typing import Any

import torch
from torch import Tensor

from vitlit.errors import InputError
from vitlit.pretraining.decoder import Decoder
from vitlit.pretraining.masking import (
    check_maskable,
    encode_visible,
    masked_places,
    visible_count,
)
from vitlit.tasks.known import DEFAULT_TASK
from vitlit.training.trainable import TrainableViT

NORM_EPS = 1e-6  # MAE's, beside the variance of a patch


class MaskableViT(TrainableViT):
    """A masked autoencoder (He et al., 2022, arXiv 2111.06377): a ViT that sees few patches.

    The encoder gets the visible patches alone; a small decoder gets its tokens, a learned token
    for each masked patch, and predicts the pixels of the masked ones. Labels are not read. The
    other arguments are those of :class:`TrainableViT`, without those that need labels.

    Args:
        mask_ratio: Share of each image's patches that the encoder does not see.
        decoder_dim: Width of the decoder; by default about half of embed_dim.
        decoder_depth: Blocks of the decoder.
        decoder_num_heads: Attention heads of the decoder; by default num_heads.
        norm_pixels: Whether each patch's pixels are normalised by their own mean and standard
            deviation before they are predicted.
    """

    def __init__(
        self,
        *,
        mask_ratio: float = 0.75,
        decoder_dim: int | None = None,
        decoder_depth: int = 2,
        decoder_num_heads: int | None = None,
        norm_pixels: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(
            num_classes=0,
            class_names=None,
            task=DEFAULT_TASK,
            thresholds=None,
            loss=None,
            target_mean=None,
            target_std=None,
            drop_rate=0.0,
            label_smoothing=0.0,
            class_weights="none",
            head_lr=None,
            layer_decay=1.0,
            freeze_blocks=0,
            lora_rank=0,
            lora_alpha=None,
            teacher=None,
            teacher_weight=0.5,
            teacher_temperature=1.0,
            teacher_hard=False,
            **settings,
        )
        own = {
            "mask_ratio": mask_ratio,
            "decoder_dim": decoder_dim,
            "decoder_depth": decoder_depth,
            "decoder_num_heads": decoder_num_heads,
            "norm_pixels": norm_pixels,
        }
        self.keep_settings({**self.hparams, **own})
        check_maskable(self.vit)
        self.patches = math.prod(self.vit.grid_size)
        self.visible = visible_count(self.patches, mask_ratio)
        if norm_pixels and self.vit.in_chans * self.vit.config["patch_size"] ** 2 == 1:
            raise InputError(
                "norm_pixels true normalises the pixels of a patch, and grey patches of patch_size "
                "1 have one; give a larger patch_size, or norm_pixels false",
                argument=("norm_pixels", "patch_size"),
            )
        self.decoder = Decoder(
            self.vit, dim=decoder_dim, depth=decoder_depth, num_heads=decoder_num_heads
        )
        # What pools features has no part in this: DDP would wait for its gradients.
        for part in (self.vit.seq_pool, self.vit.attn_pool):
            if part is not None:
                part.requires_grad_(False)

    def reconstruct(self, patches: Tensor, places: Tensor) -> Tensor:
        """Pixels ``(B, N, C*P*P)`` of all patches, from those at ``places`` ``(B, n)`` alone."""
        patches = patches.to(self.decoder.mask_token.dtype)  # the model may be half precision
        found: Tensor = self.decoder(encode_visible(self.vit, patches, places), places)
        return found

    def losses(self, patches: Tensor, places: Tensor) -> Tensor:
        """The loss of each image ``(B,)``, for the visible patches at ``places`` ``(B, n)``."""
        hidden = masked_places(places, self.patches)
        wanted = normalised(patches) if self.hparams["norm_pixels"] else patches
        return masked_loss(self.reconstruct(patches, places), wanted, hidden)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch's pixels, ``(B, N, 1)``; as in MAE's code."""
    var, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
    return mean, (var + NORM_EPS).sqrt()


def normalised(patches: Tensor) -> Tensor:
    """Patches ``(B, N, C*P*P)``, each with the mean 0 and the standard deviation 1 of its own."""
    mean, std = patch_statistics(patches)
    return (patches - mean) / std


def masked_loss(predicted: Tensor, wanted: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error of the masked patches' pixels in each image: ``(B,)``.

    predicted, wanted: ``(B, N, C*P*P)``; hidden: bool ``(B, N)``, True for the masked patches.
    """
    errors = (predicted.float() - wanted).square().mean(dim=2)  # (B, N)
    return (errors * hidden).sum(dim=1) / hidden.sum(dim=1)
