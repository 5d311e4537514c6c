"""Vision Transformer (Dosovitskiy et al., 2021), pre-norm, timm parameter names.

images (B, C, H, W) -> patches (B, N, C*P*P) -> tokens (B, 1+N, D) -> logits (B, num_classes)
"""

import inspect
import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vitlit.errors import InputError, check_at_least, check_below_one
from vitlit.model.attention import (
    AttentionName,
    GatedPositionalAttention,
    attention_layers,
    usual_gpsa_blocks,
)
from vitlit.model.blocks import ActName, encoder
from vitlit.model.patch_embed import Embedding, PatchEmbed, PatchEmbedName, make_embedding
from vitlit.model.pooling import SequencePool
from vitlit.model.positions import fixed_table, rope2d
from vitlit.patches import grid_size, pair

PosEmbedName = Literal["learn", "sincos1d", "sincos2d", "rope", "none"]
PoolName = Literal["token", "avg", "seq"]
VIT_CHOICES = {
    "patch_embed": PatchEmbedName,
    "attention": AttentionName,
    "pos_embed": PosEmbedName,
    "global_pool": PoolName,
    "act": ActName,
}


class ViT(nn.Module):
    """Vision Transformer (arXiv 2010.11929) with timm's argument and parameter names.

    ``config`` holds the arguments as plain values, with defaults that depend on others filled in:
    ``ViT(**vit.config)`` is the same architecture, newly initialised. Raises InputError for
    arguments that are out of range or contradict each other.

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
        patch_embed: linear (flattened patches times a matrix), conv (strided convolution),
            conv_stem (overlapping 3x3 convolutions, ReLU and max pooling, as in CCT, Hassani et
            al., 2021; patch_size is a power of 2) or shifted (each patch with four copies moved
            by half a patch along the diagonals: SPT, Lee et al., 2021).
        attention: softmax, lsa (locality self-attention: heads learn their temperature, and no
            token attends to itself; Lee et al., 2021) or gpsa (gated positional self-attention:
            heads weigh content against distance; ConViT, d'Ascoli et al., 2021).
        gpsa_blocks: Number of blocks with gpsa, from the first; the others have softmax. By
            default all but the last two, as in ConViT.
        locality_strength: How narrow the attention of gpsa is at the start; 1 in ConViT.
        pos_embed: learn (a free table), sincos1d (the Transformer's fixed table), sincos2d
            (fixed, rows and columns apart), rope (queries and keys rotate with row and column:
            Su et al., 2021; Heo et al., 2024) or none.
        global_pool: token (a class token, as in the paper), avg (mean of the patch tokens) or seq
            (their mean with learned weights: sequence pooling of CCT, Hassani et al., 2021).
        class_token: Whether there is a class token; by default only with global_pool token.
        reg_tokens: Register tokens after the class token (Darcet et al., 2024).
        fc_norm: Whether the final norm follows the pooling; by default only with avg. Weights of
            Google's code with average pooling need false.
        norm_eps: Epsilon of every LayerNorm: 1e-6 in the paper's code and timm, 1e-12 in
            Hugging Face's.
        act: gelu (exact, as timm and Hugging Face) or gelu_tanh (as the paper's code).
        init_values: Initial value of LayerScale, a learned factor per channel after attention
            and MLP; by default there is none.
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
        attention: AttentionName = "softmax",
        gpsa_blocks: int | None = None,
        locality_strength: float = 1.0,
        pos_embed: PosEmbedName = "learn",
        global_pool: PoolName = "token",
        class_token: bool | None = None,
        reg_tokens: int = 0,
        fc_norm: bool | None = None,
        norm_eps: float = 1e-6,
        act: ActName = "gelu",
        init_values: float | None = None,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        # int() fails for infinity and NaN; 0 sends them to the message below
        hidden = int(embed_dim * mlp_ratio) if math.isfinite(mlp_ratio) else 0
        check_at_least(1, embed_dim=embed_dim, depth=depth, in_chans=in_chans)
        check_at_least(0, num_classes=num_classes, reg_tokens=reg_tokens)
        if hidden < 1:
            raise InputError(
                f"mlp_ratio {mlp_ratio} leaves the MLP no width; 4 is usual", argument="mlp_ratio"
            )
        _check_arguments(locals())
        check_below_one(norm_eps=norm_eps, drop_rate=drop_rate, pos_drop_rate=pos_drop_rate)
        check_below_one(proj_drop_rate=proj_drop_rate, attn_drop_rate=attn_drop_rate)
        check_below_one(drop_path_rate=drop_path_rate)
        self.img_size = pair(img_size)
        self.grid_size = grid_size(self.img_size, patch_size)
        self.num_classes, self.in_chans, self.embed_dim = num_classes, in_chans, embed_dim
        self.global_pool = global_pool
        class_token = global_pool == "token" if class_token is None else class_token
        fc_norm = global_pool == "avg" if fc_norm is None else fc_norm
        if attention == "gpsa" and gpsa_blocks is None:
            gpsa_blocks = usual_gpsa_blocks(depth)
        # after the defaults above are filled in: config keeps the locals named like arguments
        self.config = _plain_arguments(locals())
        self.patch_embed: Embedding = make_embedding(
            patch_embed,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
            norm_eps=norm_eps,
        )
        self._add_prefix(class_token, reg_tokens, embed_dim)
        self._add_positions(pos_embed, embed_dim)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        place = (self.grid_size, self.num_prefix_tokens)
        layers = attention_layers(attention, depth, *place, gpsa_blocks, locality_strength)
        attn = {"num_heads": num_heads, "qkv_bias": qkv_bias, "rope": self._rope(num_heads)}
        self.blocks = encoder(
            layers,
            drop_path_rate,
            embed_dim,
            attn={**attn, "attn_drop": attn_drop_rate, "proj_drop": proj_drop_rate},
            mlp={"hidden": hidden, "drop": proj_drop_rate, "act": act},
            block={"norm_eps": norm_eps, "init_values": init_values},
        )
        self._add_norm(embed_dim, norm_eps, after_pooling=fc_norm)
        self.seq_pool = SequencePool(embed_dim) if global_pool == "seq" else None
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def remove_head(self) -> None:
        """Return features ``(B, D)`` from now on, as with ``num_classes=0``."""
        self.num_classes, self.head = 0, nn.Identity()
        self.config["num_classes"] = 0

    def _add_norm(self, dim: int, eps: float, *, after_pooling: bool) -> None:
        """Set ``norm`` (before the pooling) and ``fc_norm`` (after it); one is the identity."""
        norm = nn.LayerNorm(dim, eps=eps)
        self.norm = nn.Identity() if after_pooling else norm
        self.fc_norm = norm if after_pooling else nn.Identity()

    def _add_prefix(self, class_token: bool, reg_tokens: int, dim: int) -> None:
        """Set ``cls_token`` ``(1, 1, D)`` and ``reg_token`` ``(1, R, D)``, or None."""
        if self.global_pool == "token" and not class_token:
            raise InputError(
                "global_pool token needs a class token; leave out class_token false, or give avg",
                argument="global_pool",
            )
        self.num_prefix_tokens = int(class_token) + reg_tokens
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, reg_tokens, dim)) if reg_tokens else None

    def _add_positions(self, kind: str, dim: int) -> None:
        """Set ``pos_embed`` ``(1, prefix+N, D)``: a parameter, a fixed buffer, or None.

        A fixed table is saved too, so that the state dict is complete for timm.
        """
        prefix = self.num_prefix_tokens
        self.pos_embed: Tensor | None
        if kind == "learn":
            self.pos_embed = nn.Parameter(torch.zeros(1, prefix + math.prod(self.grid_size), dim))
        else:
            self.register_buffer("pos_embed", fixed_table(kind, self.grid_size, dim, prefix))

    def _rope(self, num_heads: int) -> Tensor | None:
        """The rotation table that all blocks share with ``pos_embed=rope``, else None."""
        if self.config["pos_embed"] != "rope":
            return None
        width = self.embed_dim // max(1, num_heads)  # Attention refuses num_heads below 1, later
        return rope2d(*self.grid_size, width, prefix=self.num_prefix_tokens)

    def embed(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` or patches ``(B, N, C*P*P)`` -> tokens ``(B, prefix+N, D)``."""
        self._check_input(x)
        x = self.patch_embed(x)  # (B, N, D)
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        if prefix:
            # class token first, then registers, then patches: timm's order, and pos_embed's
            x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in prefix), x], dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        return self.pos_drop(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``(B, prefix+N, D)`` after the last block, normalised unless fc_norm does it."""
        return self.norm(self.blocks(self.embed(x)))

    def pool(self, tokens: Tensor) -> Tensor:
        """One feature vector ``(B, D)`` from the tokens of :meth:`forward_features`."""
        if self.global_pool == "token":
            return self.fc_norm(tokens[:, 0])
        patches = tokens[:, self.num_prefix_tokens :]
        if self.seq_pool is not None:
            return self.fc_norm(self.seq_pool(patches))
        return self.fc_norm(patches.mean(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head_drop(self.pool(self.forward_features(x))))

    def _check_input(self, x: Tensor) -> None:
        rows, cols = self.grid_size
        size = self.patch_embed.patch_size
        images = (self.in_chans, *self.img_size)
        patches = (rows * cols, self.in_chans * size * size)
        takes_patches = self.patch_embed.takes_patches
        if tuple(x.shape[1:]) not in ((images, patches) if takes_patches else (images,)):
            other = f" or patches (B, {patches[0]}, {patches[1]})" if takes_patches else ""
            raise InputError(
                f"input of shape {tuple(x.shape)} does not fit the model; it takes images "
                f"(B, {', '.join(map(str, images))}){other}"
            )


def _plain_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """ViT's arguments among the local variables of its constructor, as values for a YAML file."""
    found = {name: values[name] for name in inspect.signature(ViT).parameters}
    height, width = pair(found["img_size"])
    return found | {"img_size": height if height == width else [height, width]}


def _check_arguments(values: dict[str, Any]) -> None:
    """Refuse unknown choices among the local variables of ViT's constructor."""
    for name, names in VIT_CHOICES.items():
        value, known = values[name], get_args(names)
        if value not in known:
            message = f"unknown {name} {value!r}; known: {', '.join(known)}"
            raise InputError(message, argument=name)


@torch.no_grad()
def init_weights(model: ViT) -> None:
    """Initial values as in the paper's published code (google-research/vision_transformer).

    * every matrix: Xavier uniform, queries, keys and values as three separate matrices;
    * every bias and the class token: 0; the head: all 0, so the first loss is log(num_classes);
    * learned positions and registers: normal with standard deviation 0.02;
    * ``patch_embed=linear``: Xavier uniform on the flattened patch;
    * ``patch_embed=conv``: left as PyTorch initialises a Conv2d (Kaiming uniform, a = sqrt 5);
    * the layers of ``patch_embed=conv_stem``: Kaiming normal, as in CCT's code;
    * ``attention=gpsa``: as in ConViT, see ``GatedPositionalAttention.start_local``;
    * the scores of ``global_pool=seq``: normal with standard deviation 0.02, as in CCT's code.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # Xavier's bound depends on the shape: (3D, D) as one matrix would start smaller
            parts = 3 if name.endswith("attn.qkv") else 1
            for matrix in module.weight.chunk(parts):
                nn.init.xavier_uniform_(matrix)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for block in model.blocks:  # after the loop above, which gave their values Xavier's
        if isinstance(block.attn, GatedPositionalAttention):
            block.attn.start_local()
    if isinstance(model.patch_embed, PatchEmbed) and model.patch_embed.kind == "linear":
        nn.init.xavier_uniform_(model.patch_embed.proj.weight.flatten(1))
        if model.patch_embed.proj.bias is not None:
            nn.init.zeros_(model.patch_embed.proj.bias)
    if isinstance(model.pos_embed, nn.Parameter):
        nn.init.normal_(model.pos_embed, std=0.02)
    if model.reg_token is not None:  # equal registers would get equal gradients and stay equal
        nn.init.normal_(model.reg_token, std=0.02)
    if model.seq_pool is not None:
        nn.init.normal_(model.seq_pool.score.weight, std=0.02)
    if isinstance(model.head, nn.Linear):  # last: the loop above gave it Xavier's values
        nn.init.zeros_(model.head.weight)
