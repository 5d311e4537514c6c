"""Embedding of patches as tokens.

images (B, C, H, W) or patches (B, N, C*P*P) -> tokens (B, N, D)
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.patches import patchify

PatchEmbedName = Literal["linear", "conv"]


class PatchEmbed(nn.Module):
    """Project each patch to a token; images ``(B, C, H, W)`` or patches ``(B, N, C*P*P)``.

    Both kinds hold ``proj.weight`` as ``(D, C, P, P)`` and compute the same function. They differ
    in how they compute it from images (flattened patches times a matrix, or a strided
    convolution) and in their initial values: see ``vit.init_weights``.
    """

    def __init__(
        self, *, kind: PatchEmbedName, patch_size: int, in_chans: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.kind = kind
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "conv" and x.ndim == 4:
            return self.proj(x).flatten(2).transpose(1, 2)  # (B, N, D)
        if x.ndim == 4:
            x = patchify(x, self.patch_size)  # (B, N, C*P*P)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)  # (B, N, D)
