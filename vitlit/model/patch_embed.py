"""Embedding of patches as tokens.

images (B, C, H, W) or patches (B, N, C*P*P) -> tokens (B, N, D)
"""

from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.patches import patchify

PatchEmbedName = Literal["linear", "conv", "conv_stem", "shifted"]
STEM_WIDTH = 64  # of all layers of a convolutional stem but the last


class Embedding(nn.Module):
    """What the kinds of patch embedding have in common: ``(B, C, H, W)`` -> ``(B, N, D)``.

    takes_patches: whether the input may be patches ``(B, N, C*P*P)`` as well; odd: the parameter
    that has to change its sign for the tokens to stay as they are when the images do.
    """

    takes_patches = False
    odd: str

    def __init__(self, kind: PatchEmbedName, patch_size: int) -> None:
        super().__init__()
        self.kind = kind
        self.patch_size = patch_size

    def filters(self) -> Tensor:
        """What it looks for in the pixels: ``(D, C, p, p)``."""
        raise NotImplementedError


class PatchEmbed(Embedding):
    """Project each patch to a token; images ``(B, C, H, W)`` or patches ``(B, N, C*P*P)``.

    Both kinds hold ``proj.weight`` as ``(D, C, P, P)`` and compute the same function. They differ
    in how they compute it from images (flattened patches times a matrix, or a strided
    convolution) and in their initial values: see ``vit.init_weights``.
    """

    takes_patches = True
    odd = "proj.weight"

    def __init__(
        self, *, kind: PatchEmbedName, patch_size: int, in_chans: int, embed_dim: int
    ) -> None:
        super().__init__(kind, patch_size)
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def filters(self) -> Tensor:
        """The rows of the matrix, or the filters of the convolution: ``(D, C, P, P)``."""
        return self.proj.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "conv" and x.ndim == 4:
            return self.proj(x).flatten(2).transpose(1, 2)  # (B, N, D)
        if x.ndim == 4:
            x = patchify(x, self.patch_size)  # (B, N, C*P*P)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)  # (B, N, D)


class ConvStem(Embedding):
    """3x3 convolutions over overlapping pixels, as in the Compact Convolutional Transformer.

    Hassani et al., 2021, section 3.3 (CCT-7/3x1 has one layer, for patches of 2 pixels): each
    layer is a convolution without bias, ReLU and a 3x3 max pooling that halves the image, until
    one token is left of each patch. Nothing is normalised over the batch, so that the tokens of
    an image depend on no other image.
    """

    odd = "convs.0.weight"

    def __init__(
        self, *, kind: PatchEmbedName, patch_size: int, in_chans: int, embed_dim: int
    ) -> None:
        super().__init__(kind, patch_size)
        layers = patch_size.bit_length() - 1
        if patch_size != 2**layers or layers < 1:
            raise InputError(
                f"patch_size {patch_size} is not 2, 4, 8, 16 or 32, as patch_embed conv_stem "
                f"needs, whose layers halve the image; give one of these",
                argument="patch_size",
            )
        widths = [in_chans, *[STEM_WIDTH] * (layers - 1), embed_dim]
        self.convs = nn.ModuleList()
        for width, following in pairwise(widths):
            conv = nn.Conv2d(width, following, kernel_size=3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            self.convs.append(conv)

    def filters(self) -> Tensor:
        """Those of the first layer, which alone sees pixels: ``(64, C, 3, 3)``."""
        return cast(nn.Conv2d, self.convs[0]).weight

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.max_pool2d(conv(x).relu(), kernel_size=3, stride=2, padding=1)
        return x.flatten(2).transpose(1, 2)  # (B, N, D)


class ShiftedPatches(Embedding):
    """Shifted patch tokenisation (SPT, Lee et al., 2021), section 3.1.

    The image and four copies, moved by half a patch along the diagonals with zeros moving in, are
    cut into patches together; each, ``(5*C*P*P,)`` long, is normalised and projected.
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
                f"patch_size {patch_size} has no half by which patch_embed shifted could move "
                f"the image; give 2 or more",
                argument="patch_size",
            )
        length = 5 * in_chans * patch_size * patch_size
        self.norm = nn.LayerNorm(length, eps=norm_eps)
        self.proj = nn.Linear(length, embed_dim)
        half = patch_size // 2
        ends = (0, 2 * half)
        self.starts = [(half, half), *((down, right) for down in ends for right in ends)]

    def filters(self) -> Tensor:
        """The five filters of a token, each at its place: ``(D, C, 2P, 2P)``, 2P-1 for odd P."""
        size, half = self.patch_size, self.patch_size // 2
        flat = self.proj.weight * self.norm.weight
        parts = flat.view(len(flat), 5, -1, size, size).unbind(1)  # each (D, C, P, P)
        total = flat.new_zeros(*parts[0].shape[:2], size + 2 * half, size + 2 * half)
        for part, (down, right) in zip(parts, self.starts, strict=True):
            total[..., down : down + size, right : right + size] += part
        return total

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x, (self.patch_size // 2,) * 4)
        views = [
            padded[..., down : down + height, right : right + width] for down, right in self.starts
        ]
        patches = patchify(torch.cat(views, dim=1), self.patch_size)  # (B, N, 5*C*P*P)
        return self.proj(self.norm(patches))


def make_embedding(
    kind: PatchEmbedName, *, patch_size: int, in_chans: int, embed_dim: int, norm_eps: float
) -> Embedding:
    """The embedding of this kind; norm_eps: of the norm that shifted patches have."""
    match kind:
        case "conv_stem":
            return ConvStem(
                kind=kind, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim
            )
        case "shifted":
            return ShiftedPatches(
                kind=kind,
                patch_size=patch_size,
                in_chans=in_chans,
                embed_dim=embed_dim,
                norm_eps=norm_eps,
            )
    return PatchEmbed(kind=kind, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim)
