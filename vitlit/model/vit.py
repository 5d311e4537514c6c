"""Vision Transformer (Dosovitskiy et al., 2021), pre-norm, timm parameter names.

images (B, C, H, W) -> patches (B, N, C*P*P) -> tokens (B, 1+N, D) -> logits (B, num_classes)
"""

import inspect
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.arguments import (
    PoolName,
    PosEmbedName,
    SubNormName,
    complete_arguments,
    hidden_width,
)
from vitlit.model.blocks import ActName, MlpName
from vitlit.model.encoder import encoder
from vitlit.model.initial_values import AttentionInitName, init_structured, init_weights
from vitlit.model.local_attention import AttentionName
from vitlit.model.norms import MakeNorm, NormName, make_norm
from vitlit.model.patch_embed import Embedding, PatchEmbedName, StemNormName, make_embedding
from vitlit.model.pooling import AttentionPool, SequencePool
from vitlit.model.positions import ROPE_BASE, RopeName, fixed_table, rope2d
from vitlit.patches import grid_size, pair


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
        stem_convs: Convolutions of conv_stem before each halving of the image. 1 is CCT's stem;
            with more, a norm follows each, and widths double up to embed_dim.
        stem_norm: Norm of that stem: group (GroupNorm), or batch (batch norm, learns faster).
        attention: softmax, lsa (locality self-attention: heads learn their temperature, and no
            token attends to itself; Lee et al., 2021), gpsa (gated positional self-attention:
            heads weigh content against distance; ConViT, d'Ascoli et al., 2021) or relative (a
            bias learned for each offset between two patches; BEiT, Bao et al., 2022).
        gpsa_blocks: Number of blocks with gpsa, from the first; the others have softmax. By
            default all but the last two, as in ConViT.
        attention_init: xavier, or structured: heads start as convolutions (Zheng et al., 2025).
        locality_strength: How narrow the attention of gpsa is at the start; 1 in ConViT.
        pos_embed: Positions added to the tokens: learn (a free table), sincos1d (the Transformer's
            fixed table), sincos2d (fixed, rows and columns apart) or none. The older name rope
            stands for pos_embed none with rope index.
        rope: Rotary positions: queries and keys rotate with the row and column of their patch (Su
            et al., 2021). index counts rows and columns (RoPE-ViT, Heo et al., 2024; EVA-02),
            centred spans -1 to 1 times 2 pi (DINOv3, Simeoni et al., 2025); none.
        rope_base: Slowest rotation: 100 in RoPE-ViT and DINOv3, 10000 in EVA-02.
        rope_grid: Grid (rows, columns) that the positions of rope index are rescaled to, one
            number or two (EVA-02, Fang et al., 2023: 16); by default they are not.
        rope_offset: Position of the first row and column; 1 in the Perception Encoder.
        global_pool: token (a class token, as in the paper), avg (mean of the patch tokens), seq
            (their mean with learned weights: sequence pooling of CCT, Hassani et al., 2021) or map
            (a learned query attends to all tokens: SigLIP, Zhai et al., 2023).
        pool_heads: Heads of global_pool map; by default num_heads.
        pool_mlp_ratio: Width of the MLP of global_pool map over embed_dim; by default mlp_ratio.
        pool_include_prefix: Whether global_pool map attends to the class token and the registers
            too, as in the Perception Encoder.
        class_token: Whether there is a class token; by default only with global_pool token.
        reg_tokens: Register tokens after the class token (Darcet et al., 2024).
        fc_norm: Whether the final norm follows the pooling; by default only with avg. Weights from
            Google's code with average pooling need false.
        final_norm: Whether there is a norm after the last block; InternViT has none.
        pre_norm: Whether there is a norm before the first block (CLIP, Radford et al., 2021).
        embed_norm: Whether the patch tokens are normalised before positions are added (AIMv2).
        qk_norm: Whether queries and keys are normalised, in each head (Dehghani et al., 2023).
        sub_norm: A norm before the last layer of the MLP (mlp: EVA-02), of MLP and attention
            (both: BEiT-3, Wang et al., 2023), or none.
        norm: layer (LayerNorm) or rms (RMSNorm, Zhang and Sennrich, 2019), for every norm.
        norm_eps: Epsilon of every norm: 1e-6 in the paper's code and timm, 1e-12 in Hugging
            Face's, 1e-5 in CLIP and DINOv3.
        mlp: gelu (two layers with ``act`` between) or swiglu (gated, Shazeer, 2020: DINOv2-g).
        act: gelu (exact, as timm and Hugging Face), gelu_tanh (as the paper's code) or quick_gelu
            (x sigmoid(1.702 x), as OpenAI's CLIP).
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
        stem_convs: int = 1,
        stem_norm: StemNormName = "group",
        attention: AttentionName = "softmax",
        gpsa_blocks: int | None = None,
        attention_init: AttentionInitName = "xavier",
        locality_strength: float = 1.0,
        pos_embed: PosEmbedName = "learn",
        rope: RopeName = "none",
        rope_base: float = ROPE_BASE,
        rope_grid: int | list[int] | None = None,
        rope_offset: float = 0.0,
        global_pool: PoolName = "token",
        pool_heads: int | None = None,
        pool_mlp_ratio: float | None = None,
        pool_include_prefix: bool = False,
        class_token: bool | None = None,
        reg_tokens: int = 0,
        fc_norm: bool | None = None,
        final_norm: bool = True,
        pre_norm: bool = False,
        embed_norm: bool = False,
        qk_norm: bool = False,
        sub_norm: SubNormName = "none",
        norm: NormName = "layer",
        norm_eps: float = 1e-6,
        mlp: MlpName = "gelu",
        act: ActName = "gelu",
        init_values: float | None = None,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        given = locals()  # of all of them, before there are other local variables
        super().__init__()
        self.config = complete_arguments(
            {name: value for name, value in given.items() if name not in ("self", "__class__")}
        )
        self.img_size = pair(img_size)
        self.grid_size = grid_size(self.img_size, patch_size)
        self.num_classes, self.in_chans, self.embed_dim = num_classes, in_chans, embed_dim
        self.global_pool = global_pool
        new_norm = partial(make_norm, norm, eps=norm_eps)
        self.patch_embed: Embedding = make_embedding(
            patch_embed,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
            norm_eps=norm_eps,
            norm=new_norm if embed_norm else None,
            stem_convs=stem_convs,
            stem_norm=stem_norm,
        )
        self._add_prefix(self.config["class_token"], reg_tokens, embed_dim)
        self._add_positions(self.config["pos_embed"], embed_dim)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.norm_pre = new_norm(embed_dim) if pre_norm else nn.Identity()
        self.blocks = encoder(
            self.config,
            self.grid_size,
            self.num_prefix_tokens,
            rope=self.rope_table(prefix=self.num_prefix_tokens),
            norm=new_norm,
        )
        self._add_norm(new_norm)
        self.seq_pool = SequencePool(embed_dim) if global_pool == "seq" else None
        self.attn_pool = self._attention_pool(new_norm) if global_pool == "map" else None
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        init_weights(self)
        if attention_init == "structured" and self.pos_embed is not None:
            init_structured(self.blocks, self.pos_embed, self.grid_size)

    def remove_head(self) -> None:
        """Return features ``(B, D)`` from now on, as with ``num_classes=0``."""
        self.num_classes, self.head = 0, nn.Identity()
        self.config["num_classes"] = 0

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Answer with these logits from now on: weight ``(K, D)``, bias ``(K,)``, copied."""
        self.num_classes, width = weight.shape
        self.head = nn.Linear(width, self.num_classes).to(weight)  # its device and dtype
        self.head.load_state_dict({"weight": weight, "bias": bias})
        self.config["num_classes"] = self.num_classes

    def _add_norm(self, new_norm: MakeNorm) -> None:
        """Set ``norm`` (before the pooling) and ``fc_norm`` (after it); at most one is a norm."""
        after_pooling = self.config["fc_norm"]
        last = new_norm(self.embed_dim) if self.config["final_norm"] else nn.Identity()
        self.norm = nn.Identity() if after_pooling else last
        self.fc_norm = last if after_pooling else nn.Identity()

    def _attention_pool(self, new_norm: MakeNorm) -> AttentionPool:
        return AttentionPool(
            dim=self.embed_dim,
            num_heads=self.config["pool_heads"],
            hidden=hidden_width(self.config, "pool_mlp_ratio"),
            norm=new_norm,
            act=self.config["act"],
        )

    def _add_prefix(self, class_token: bool, reg_tokens: int, dim: int) -> None:
        """Set ``cls_token`` ``(1, 1, D)`` and ``reg_token`` ``(1, R, D)``, or None."""
        self.num_prefix_tokens = int(class_token) + reg_tokens
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, reg_tokens, dim)) if reg_tokens else None

    def _add_positions(self, kind: str, dim: int) -> None:
        """Set ``pos_embed`` ``(1, prefix+N, D)``: a parameter, a saved buffer or None."""
        prefix = self.num_prefix_tokens
        self.pos_embed: Tensor | None
        if kind == "learn":
            self.pos_embed = nn.Parameter(torch.zeros(1, prefix + math.prod(self.grid_size), dim))
        else:
            self.register_buffer("pos_embed", fixed_table(kind, self.grid_size, dim, prefix))

    def rope_table(self, *, prefix: int = 0) -> Tensor | None:
        """Rotations of the patches, after ``prefix`` tokens without any; None without rope."""
        told = self.config
        if told["rope"] == "none":
            return None
        return rope2d(
            self.grid_size,
            self.embed_dim // max(1, told["num_heads"]),  # Attention refuses 0, later
            kind=told["rope"],
            base=told["rope_base"],
            reference=told["rope_grid"] and pair(told["rope_grid"]),
            offset=told["rope_offset"],
            prefix=prefix,
        )

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
        return self.norm_pre(self.pos_drop(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``(B, prefix+N, D)`` after the last block, normalised unless fc_norm does it."""
        return self.norm(self.blocks(self.embed(x)))

    def pool(self, tokens: Tensor) -> Tensor:
        """One feature vector ``(B, D)`` from the tokens of :meth:`forward_features`."""
        if self.global_pool == "token":
            return self.fc_norm(tokens[:, 0])
        patches = tokens[:, self.num_prefix_tokens :]
        if self.attn_pool is not None:
            pooled = tokens if self.config["pool_include_prefix"] else patches
            return self.fc_norm(self.attn_pool(pooled))
        if self.seq_pool is not None:
            return self.fc_norm(self.seq_pool(patches))
        return self.fc_norm(patches.mean(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head_drop(self.pool(self.forward_features(x))))

    def _check_input(self, x: Tensor) -> None:
        images = (self.in_chans, *self.img_size)
        patches = (math.prod(self.grid_size), self.in_chans * self.patch_embed.patch_size**2)
        known = [images, patches] if self.patch_embed.takes_patches else [images]
        if tuple(x.shape[1:]) not in known:
            other = f" or patches (B, {patches[0]}, {patches[1]})" if patches in known else ""
            raise InputError(
                f"input of shape {tuple(x.shape)} does not fit the model; it takes images "
                f"(B, {', '.join(map(str, images))}){other}"
            )


def config_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The ``config`` of ``ViT(**arguments)``, without building it."""
    parameters = inspect.signature(ViT).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    return complete_arguments(defaults | arguments)
