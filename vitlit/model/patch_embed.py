"""Patch embedding: linear, convolutional, convolutional stem (CCT) and shifted patches (SPT).

images (B, C, H, W) or patches (B, N, C*P*P) -> tokens (B, N, D)
"""

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.norms import MakeNorm
from vitlit.patches import patchify

PatchEmbedName = Literal["linear", "conv", "conv_stem", "shifted"]
StemNormName = Literal["group", "batch"]
STEM_WIDTH = 64  # channels of every layer of CCT's convolutional stem but the last, as in its code
STEM_GROUPS = 8  # of a stem's GroupNorm, where they divide the channels


class Embedding(nn.Module, ABC):
    """Base class of the patch embeddings: images ``(B, C, H, W)`` -> tokens ``(B, N, D)``.

    takes_patches: whether the input may also be patches ``(B, N, C*P*P)``. odd: the parameter to
    negate so that negated images give the same tokens, as exports of models trained on inverted
    pixels need it.
    """

    takes_patches = False
    odd: str

    def __init__(self, kind: PatchEmbedName, patch_size: int) -> None:
        super().__init__()
        self.kind = kind
        self.patch_size = patch_size

    @abstractmethod
    def filters(self) -> Tensor:
        """The filters that read the pixels, for figures: ``(D, C, p, p)``."""


class PatchEmbed(Embedding):
    """Project each patch to a token; images ``(B, C, H, W)`` or patches ``(B, N, C*P*P)``.

    Both kinds, linear and conv, hold ``proj.weight`` as ``(D, C, P, P)`` and compute the same
    function. They differ in how they compute it from images (flattened patches times a matrix, or
    a strided convolution) and in their initial values: see ``vit.init_weights``.
    """

    takes_patches = True
    odd = "proj.weight"
    norm: nn.Module | None

    def __init__(
        self,
        *,
        kind: PatchEmbedName,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        norm: MakeNorm | None = None,
    ) -> None:
        """norm: makes the norm of the tokens before the positions (AIMv2); by default none."""
        super().__init__(kind, patch_size)
        # A Conv2d for kind linear too, so that timm's state dicts load into either kind unchanged.
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = None if norm is None else norm(embed_dim)

    def filters(self) -> Tensor:
        """The rows of the matrix, or the filters of the convolution: ``(D, C, P, P)``."""
        return self.proj.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self._project(x)
        return x if self.norm is None else self.norm(x)

    def _project(self, x: Tensor) -> Tensor:
        if self.kind == "conv" and x.ndim == 4:
            return self.proj(x).flatten(2).transpose(1, 2)  # (B, N, D)
        if x.ndim == 4:
            x = patchify(x, self.patch_size)  # (B, N, C*P*P)
        # patchify orders a patch (C, P, P) like the filter: equal to the convolution within 2e-7.
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)  # (B, N, D)


class BatchNorm(nn.BatchNorm2d):
    """As torch's, without its count of batches: a whole number, which weight files may not hold.

    While it is frozen it also keeps its statistics, and answers by them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("num_batches_tracked", None)
        self.register_load_state_dict_pre_hook(_drop_count)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and self.weight.requires_grad)


def _drop_count(norm: BatchNorm, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Of a state without a version: torch has just added the count, as if that had been before."""
    state.pop(f"{prefix}num_batches_tracked", None)


class ConvStem(Embedding):
    """Convolutions in place of separate patches; each stage of them halves the image.

    With one convolution a stage it is the stem of the Compact Convolutional Transformer (CCT;
    Hassani et al., 2021, section 3.3): a 3x3 convolution without bias, a ReLU and a 3x3 max
    pooling, until one token is left of each patch; CCT-7/3x1 has one stage, for patches of 2
    pixels. With more, a norm follows each convolution, and the stages double in width: embed_dim/4,
    embed_dim/2, embed_dim for patches of 8 pixels. The norm is a GroupNorm (Wu and He, 2018), with
    which the tokens of an image depend on no other image, or a batch norm (Ioffe and Szegedy,
    2015), which learns faster from batches that are large enough. Raises InputError if patch_size
    is not a power of 2, or embed_dim cannot be halved that often.
    """

    odd = "convs.0.weight"

    def __init__(
        self,
        *,
        kind: PatchEmbedName,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        stem_convs: int = 1,
        stem_norm: StemNormName = "group",
    ) -> None:
        super().__init__(kind, patch_size)
        stages = patch_size.bit_length() - 1  # log2 of a power of 2
        if patch_size != 2**stages or stages < 1:
            raise InputError(
                f"patch_size {patch_size} is not 2, 4, 8, 16 or 32; patch_embed conv_stem needs "
                f"a power of 2, because each of its stages halves the image",
                argument="patch_size",
            )
        self.stem_convs = stem_convs
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for width, following in pairwise(self._widths(stages, in_chans, embed_dim)):
            conv = nn.Conv2d(width, following, kernel_size=3, padding=1, bias=False)
            if not conv.weight.is_meta:  # see init_weights, which leaves these as they are
                nn.init.kaiming_normal_(conv.weight)
            self.convs.append(conv)
            if stem_convs > 1:
                groups = math.gcd(STEM_GROUPS, following)
                is_batch = stem_norm == "batch"
                norm = BatchNorm(following) if is_batch else nn.GroupNorm(groups, following)
                self.norms.append(norm)

    def _widths(self, stages: int, in_chans: int, embed_dim: int) -> list[int]:
        """Channels of the image and after each convolution."""
        if self.stem_convs == 1:
            return [in_chans, *[STEM_WIDTH] * (stages - 1), embed_dim]
        halvings = 2 ** (stages - 1)
        if embed_dim % halvings:
            raise InputError(
                f"embed_dim {embed_dim} is not a multiple of {halvings}; stem_convs "
                f"{self.stem_convs} with patch_size {self.patch_size} halves the width "
                f"{stages - 1} times from the last stage to the first",
                argument="embed_dim",
            )
        widths = [embed_dim // 2**left for left in reversed(range(stages))]
        return [in_chans, *(width for width in widths for _ in range(self.stem_convs))]

    def filters(self) -> Tensor:
        """The filters of the first layer, the only one that reads pixels: ``(width, C, 3, 3)``."""
        return cast(nn.Conv2d, self.convs[0]).weight

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or self.norms:
            # Convolutions multiply this layout without transposing it, and the tokens below are
            # then a view. The weights stay as they are: files hold them in the usual layout.
            x = x.contiguous(memory_format=torch.channels_last)
        for index, conv in enumerate(self.convs):
            x = conv(x)
            if self.norms:
                x = self.norms[index](x)
            x = x.relu()
            if (index + 1) % self.stem_convs == 0:
                x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        return x.flatten(2).transpose(1, 2)  # (B, N, D)


class ShiftedPatches(Embedding):
    """Shifted patch tokenisation (SPT, Lee et al., 2021, section 3.1).

    The image and four copies, shifted by half a patch along the diagonals and filled with zeros,
    are stacked as channels and cut into patches. Each patch, a vector of 5*C*P*P numbers, goes
    through a LayerNorm and a linear layer. Raises InputError if patch_size is 1.
    """

    odd = "norm.weight"

    def __init__(
        self,
        *,
        kind: PatchEmbedName,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__(kind, patch_size)
        if patch_size < 2:
            raise InputError(
                f"patch_size {patch_size} is too small for patch_embed shifted, which shifts the "
                f"image by half a patch; give 2 or more",
                argument="patch_size",
            )
        length = 5 * in_chans * patch_size * patch_size
        self.norm = nn.LayerNorm(length, eps=norm_eps)
        self.proj = nn.Linear(length, embed_dim)
        half = patch_size // 2
        ends = (0, 2 * half)
        # Where each copy starts in the padded image: first the image itself, then the four shifts.
        self.starts = [(half, half), *((down, right) for down in ends for right in ends)]

    def filters(self) -> Tensor:
        """The five filters of a token, added where they read: ``(D, C, 2P, 2P)``, odd P: 2P-1."""
        size, half = self.patch_size, self.patch_size // 2
        flat = self.proj.weight * self.norm.weight  # the norm scales what the projection reads
        parts = flat.view(len(flat), 5, -1, size, size).unbind(1)  # each (D, C, P, P)
        total = flat.new_zeros(*parts[0].shape[:2], size + 2 * half, size + 2 * half)
        for part, (down, right) in zip(parts, self.starts, strict=True):
            total[..., down : down + size, right : right + size] += part
        return total

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        # One padding serves all shifts, which are slices of it; torch.cat makes the copy.
        padded = F.pad(x, (self.patch_size // 2,) * 4)
        views = [
            padded[..., down : down + height, right : right + width] for down, right in self.starts
        ]
        patches = patchify(torch.cat(views, dim=1), self.patch_size)  # (B, N, 5*C*P*P)
        return self.proj(self.norm(patches))


def make_embedding(
    kind: PatchEmbedName,
    *,
    patch_size: int,
    in_chans: int,
    embed_dim: int,
    norm_eps: float,
    norm: MakeNorm | None = None,
    stem_convs: int = 1,
    stem_norm: StemNormName = "group",
) -> Embedding:
    """The patch embedding of this kind; norm_eps applies to the LayerNorm of shifted patches.

    norm: see PatchEmbed. stem_convs: convolutions in each stage of conv_stem; stem_norm: see
    ConvStem. Raises InputError if norm is given for another kind than linear and conv.
    """
    shape: dict[str, Any] = {
        "kind": kind,
        "patch_size": patch_size,
        "in_chans": in_chans,
        "embed_dim": embed_dim,
    }
    if kind in ("linear", "conv"):
        return PatchEmbed(**shape, norm=norm)
    if norm is not None:
        raise InputError(
            f"embed_norm true applies to patch_embed linear and conv; leave it out with {kind}",
            argument=("embed_norm", "patch_embed"),
        )
    if kind == "conv_stem":
        return ConvStem(**shape, stem_convs=stem_convs, stem_norm=stem_norm)
    return ShiftedPatches(**shape, norm_eps=norm_eps)
