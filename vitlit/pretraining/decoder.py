"""The decoder of a masked autoencoder: a small ViT, from visible tokens to all pixels.

tokens (B, prefix+n, D), places (B, n) -> pixels (B, N, C*P*P)
"""

import math
from functools import partial

import torch
from torch import Tensor, nn

from vitlit.errors import InputError, check_at_least
from vitlit.model.encoder import encoder
from vitlit.model.initial_values import init_matrices
from vitlit.model.norms import make_norm
from vitlit.model.positions import fixed_table
from vitlit.model.vit import ViT, config_of


class Decoder(nn.Module):
    """Blocks of width ``dim`` over all patches, the masked ones a learned token (MAE, section 3).

    Raises InputError if the width does not suit the heads, or the positions of sincos2d.
    """

    positions: Tensor

    def __init__(self, vit: ViT, *, dim: int | None, depth: int, num_heads: int | None) -> None:
        """vit: the encoder; dim: by default about half its width; num_heads: by default its own."""
        super().__init__()
        told = vit.config
        heads = told["num_heads"] if num_heads is None else num_heads
        width = usual_width(vit.embed_dim, heads) if dim is None else dim
        check_width(width, heads, depth)
        shape = {name: told[name] for name in ("img_size", "patch_size", "in_chans")}
        config = config_of(shape | {"embed_dim": width, "depth": depth, "num_heads": heads})
        new_norm = partial(make_norm, "layer", eps=1e-6)
        self.prefix, self.patches = vit.num_prefix_tokens, math.prod(vit.grid_size)
        self.embed = nn.Linear(vit.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        # Fixed, as in MAE, and not saved: it follows from the arguments.
        table = fixed_table("sincos2d", vit.grid_size, width, self.prefix)
        self.register_buffer("positions", table, persistent=False)
        self.blocks = encoder(config, vit.grid_size, self.prefix, rope=None, norm=new_norm)
        self.norm = new_norm(width)
        self.pixels = nn.Linear(width, vit.in_chans * told["patch_size"] ** 2)
        init_matrices(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        x = self.embed(tokens)
        prefix, visible = x[:, : self.prefix], x[:, self.prefix :]
        # autocast may have made x half precision: scatter takes one type
        hidden = self.mask_token.to(x.dtype).expand(len(x), self.patches, -1)
        index = places[:, :, None].expand(-1, -1, x.shape[2])
        x = torch.cat([prefix, hidden.scatter(1, index, visible)], dim=1)  # (B, prefix+N, dim)
        x = self.norm(self.blocks(x + self.positions))
        return self.pixels(x[:, self.prefix :])


def usual_width(embed_dim: int, heads: int) -> int:
    """About half the width of the encoder: a multiple of 4, for the positions, and of the heads."""
    step = math.lcm(4, max(1, heads))
    return max(1, embed_dim // 2 // step) * step


def check_width(width: int, heads: int, depth: int) -> None:
    """Refuse a decoder that cannot be made, in its own arguments. Raises InputError."""
    check_at_least(1, decoder_dim=width, decoder_num_heads=heads, decoder_depth=depth)
    if width % math.lcm(4, heads):
        raise InputError(
            f"decoder_dim {width} is not a multiple of 4 and of its {heads} heads; give another, "
            f"such as {usual_width(2 * width, heads)}",
            argument=("decoder_dim", "decoder_num_heads"),
        )
