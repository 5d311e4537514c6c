"""Vision Transformer (Dosovitskiy et al., 2021), pre-norm, timm parameter names.

images (B, C, H, W) -> patches (B, N, C*P*P) -> tokens (B, 1+N, D) -> logits (B, num_classes)
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from vitlit.attention import Attention
from vitlit.errors import InputError, check_at_least, check_below_one
from vitlit.patches import grid_size, pair, patchify
from vitlit.positions import sincos1d, sincos2d

NORM_EPS = 1e-6  # of every LayerNorm, as in the paper's code and in timm

PatchEmbedName = Literal["linear", "conv"]
PosEmbedName = Literal["learn", "sincos1d", "sincos2d", "none"]
PoolName = Literal["token", "avg"]


class PatchEmbed(nn.Module):
    """Project each patch to a token; images ``(B, C, H, W)`` or patches ``(B, N, C*P*P)``.

    Both kinds hold ``proj.weight`` as ``(D, C, P, P)`` and compute the same function. They differ
    in how they compute it from images (flattened patches times a matrix, or a strided
    convolution) and in their initial values: see :func:`init_weights`.
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


class Mlp(nn.Module):
    """Two layers with a GELU between: tokens ``(B, N, D)`` -> ``(B, N, D)``."""

    def __init__(self, *, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """Pre-norm encoder block: tokens ``(B, N, D)`` -> ``(B, N, D)`` (paper, eq. 2 and 3)."""

    def __init__(
        self, *, dim: int, hidden: int, drop_path: float, drop: float, attn: Attention
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim=dim, hidden=hidden, drop=drop)
        self.drop_path = StochasticDepth(drop_path, mode="row") if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """Vision Transformer (arXiv 2010.11929) with timm's argument and parameter names.

    Args:
        img_size: Height and width in pixels, one number or two.
        patch_size: Side of a square patch in pixels; must divide the image size.
        in_chans: Channels of the image.
        num_classes: Outputs of the head; 0 leaves the head out and returns features.
        embed_dim: Width D of a token.
        depth: Number of encoder blocks L.
        num_heads: Attention heads h; must divide embed_dim.
        mlp_ratio: Width of a block's MLP as a multiple of embed_dim.
        qkv_bias: Whether queries, keys and values have a bias.
        patch_embed: linear (flattened patches times a matrix) or conv (strided convolution).
        pos_embed: learn (a free table), sincos1d (the Transformer's fixed table), sincos2d
            (fixed, rows and columns apart) or none.
        global_pool: token (a class token, as in the paper) or avg (mean of the patch tokens,
            without a class token).
        drop_rate: Dropout before the head.
        pos_drop_rate: Dropout on the embedded patches (embedding dropout).
        proj_drop_rate: Dropout after the attention projection and in the MLP.
        attn_drop_rate: Dropout on the attention weights.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        *,
        img_size: int | list[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        patch_embed: PatchEmbedName = "conv",
        pos_embed: PosEmbedName = "learn",
        global_pool: PoolName = "token",
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = int(embed_dim * mlp_ratio) if math.isfinite(mlp_ratio) else 0
        check_at_least("model", 1, embed_dim=embed_dim, depth=depth, in_chans=in_chans)
        check_at_least("model", 0, num_classes=num_classes)
        if hidden < 1:
            raise InputError(f"mlp_ratio {mlp_ratio} leaves the MLP no width; 4 is usual")
        _check_choice(PatchEmbedName, patch_embed=patch_embed)
        _check_choice(PosEmbedName, pos_embed=pos_embed)
        _check_choice(PoolName, global_pool=global_pool)
        check_below_one(
            "model",
            drop_rate=drop_rate,
            pos_drop_rate=pos_drop_rate,
            proj_drop_rate=proj_drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
        )
        self.num_classes = num_classes
        self.img_size = pair(img_size)
        self.grid_size = grid_size(self.img_size, patch_size)
        self.in_chans = in_chans
        self.global_pool = global_pool
        self.num_prefix_tokens = 1 if global_pool == "token" else 0
        self.patch_embed = PatchEmbed(
            kind=patch_embed, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim
        )
        if self.num_prefix_tokens:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self._add_positions(pos_embed, embed_dim)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.Sequential(
            *(
                Block(
                    dim=embed_dim,
                    hidden=hidden,
                    drop_path=rate,
                    drop=proj_drop_rate,
                    attn=Attention(
                        dim=embed_dim,
                        num_heads=num_heads,
                        qkv_bias=qkv_bias,
                        attn_drop=attn_drop_rate,
                        proj_drop=proj_drop_rate,
                    ),
                )
                for rate in rates
            )
        )
        # timm's keys: the norm comes before pooling a token (norm), after averaging (fc_norm)
        norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.norm = norm if global_pool == "token" else nn.Identity()
        self.fc_norm = norm if global_pool == "avg" else nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def _add_positions(self, kind: str, dim: int) -> None:
        """Set ``pos_embed`` ``(1, prefix+N, D)``: a parameter, a fixed buffer, or None.

        A fixed table is saved too, so that the state dict is complete for timm.
        """
        rows, cols = self.grid_size
        prefix = self.num_prefix_tokens
        self.pos_embed: Tensor | None
        match kind:
            case "learn":
                self.pos_embed = nn.Parameter(torch.zeros(1, prefix + rows * cols, dim))
            case "sincos1d":  # the class token takes position 0
                self.register_buffer("pos_embed", sincos1d(prefix + rows * cols, dim)[None])
            case "sincos2d":  # the class token has no place in the image: zeros
                table = F.pad(sincos2d(rows, cols, dim), (0, 0, prefix, 0))
                self.register_buffer("pos_embed", table[None])
            case "none":
                self.pos_embed = None

    def embed(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` or patches ``(B, N, C*P*P)`` -> tokens ``(B, prefix+N, D)``."""
        self._check_input(x)
        x = self.patch_embed(x)  # (B, N, D)
        if self.num_prefix_tokens:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        return self.pos_drop(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``(B, prefix+N, D)`` after the last block and, with a class token, the norm."""
        return self.norm(self.blocks(self.embed(x)))

    def pool(self, tokens: Tensor) -> Tensor:
        """One feature vector ``(B, D)`` from the tokens of :meth:`forward_features`."""
        pooled = tokens[:, 0] if self.global_pool == "token" else tokens.mean(dim=1)
        return self.fc_norm(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head_drop(self.pool(self.forward_features(x))))

    def _check_input(self, x: Tensor) -> None:
        rows, cols = self.grid_size
        size = self.patch_embed.patch_size
        images = (self.in_chans, *self.img_size)
        patches = (rows * cols, self.in_chans * size * size)
        if tuple(x.shape[1:]) not in (images, patches):
            raise InputError(
                f"input of shape {tuple(x.shape)} does not fit the model; it takes images "
                f"(B, {', '.join(map(str, images))}) or patches (B, {patches[0]}, {patches[1]})"
            )


def _check_choice(kind: object, **choices: str) -> None:
    for name, value in choices.items():
        if value not in get_args(kind):
            raise InputError(f"unknown {name} {value!r}; known: {', '.join(get_args(kind))}")


@torch.no_grad()
def init_weights(model: ViT) -> None:
    """Initial values, after the paper's published code (google-research/vision_transformer).

    * every matrix: Xavier uniform, queries, keys and values as three separate matrices;
    * every bias and the class token: 0; the head: all 0, so the first loss is log(num_classes);
    * learned positions: normal with standard deviation 0.02;
    * ``patch_embed=linear``: Xavier uniform on the flattened patch;
    * ``patch_embed=conv``: left as PyTorch initialises a Conv2d (Kaiming uniform, a = sqrt 5).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            parts = 3 if name.endswith("attn.qkv") else 1
            for matrix in module.weight.chunk(parts):
                nn.init.xavier_uniform_(matrix)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if model.patch_embed.kind == "linear":
        nn.init.xavier_uniform_(model.patch_embed.proj.weight.flatten(1))
        if model.patch_embed.proj.bias is not None:
            nn.init.zeros_(model.patch_embed.proj.bias)
    if isinstance(model.pos_embed, nn.Parameter):
        nn.init.normal_(model.pos_embed, std=0.02)
    if isinstance(model.head, nn.Linear):
        nn.init.zeros_(model.head.weight)
