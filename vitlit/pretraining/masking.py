"""Which patches of an image are masked, and the encoder on those that are not.

address of a batch -> places of the visible patches (B, n)
patches (B, N, C*P*P), places (B, n) -> tokens (B, prefix+n, D)
"""

import torch
from torch import Tensor

from vitlit.errors import InputError
from vitlit.model.vit import ViT
from vitlit.seeding import Stream, address, uniform

# Kinds that take each patch for itself, and tokens in any number.
PATCHWISE = ("linear", "conv")
ANY_NUMBER = ("softmax", "lsa")


def visible_count(patches: int, ratio: float) -> int:
    """How many of an image's patches stay visible if the share ``ratio`` of them is masked.

    Raises InputError if that leaves none visible, or none masked.
    """
    visible = patches - round(patches * ratio)
    if not (0 < ratio < 1 and 0 < visible < patches):
        raise InputError(
            f"mask_ratio {ratio} of {patches} patches masks {patches - visible} of them, and at "
            f"least one must be masked and one visible; give a share between 0 and 1, or a smaller "
            f"patch_size",
            argument=("mask_ratio", "patch_size"),
        )
    return visible


def visible_places(seed: int, epoch: int, sample: Tensor, patches: int, count: int) -> Tensor:
    """Places of the visible patches, drawn anew for each image and epoch, in ascending order.

    They are a function of (seed, epoch, sample), so they depend on no batch size and no device.
    sample: int64 ``(B,)``. Returns int64 ``(B, count)``.
    """
    draws = uniform(address(seed, Stream.MASK, epoch), sample, patches)
    # stable: two draws may be equal, and devices would order them differently
    order = draws.argsort(dim=1, stable=True)
    return order[:, :count].sort(dim=1).values


def take(x: Tensor, places: Tensor) -> Tensor:
    """Rows of ``(B, N, D)``, or of one table ``(1, N, D)``, at places ``(B, n)``: ``(B, n, D)``."""
    x = x.expand(len(places), -1, -1)
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))


def masked_places(visible: Tensor, patches: int) -> Tensor:
    """bool ``(B, N)``: True for the patches that are not at the places ``(B, n)``."""
    hidden = torch.ones(len(visible), patches, dtype=torch.bool, device=visible.device)
    return hidden.scatter(1, visible, False)


def check_maskable(vit: ViT) -> None:
    """Refuse a model that cannot leave patches out. Raises InputError."""
    told = vit.config
    if told["patch_embed"] not in PATCHWISE:
        raise InputError(
            f"patch_embed {told['patch_embed']} reads pixels of neighbouring patches, so masked "
            f"ones would leak; pretraining takes patch_embed {' or '.join(PATCHWISE)}",
            argument="patch_embed",
        )
    if told["attention"] not in ANY_NUMBER:
        raise InputError(
            f"attention {told['attention']} needs all patches of the grid, and pretraining leaves "
            f"most of them out; give attention {' or '.join(ANY_NUMBER)}",
            argument="attention",
        )
    if told["rope"] != "none":
        raise InputError(
            f"rope {told['rope']} rotates all patches of the grid in their order, and pretraining "
            f"leaves most of them out; give rope none and pos_embed sincos2d or learn",
            argument="rope",
        )


def encode_visible(vit: ViT, patches: Tensor, places: Tensor) -> Tensor:
    """Tokens of the class, the registers and the visible patches alone, after the last norm.

    patches: ``(B, N, C*P*P)``; places: ``(B, n)``. Returns ``(B, prefix+n, D)``. With all patches
    visible this is ``forward_features``, apart from the norm that ``fc_norm`` puts off.
    """
    x = vit.patch_embed(take(patches, places))  # (B, n, D)
    prefix: list[Tensor] = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
    first = vit.num_prefix_tokens
    if vit.pos_embed is not None:  # before the others are left out: each keeps its own position
        x = x + take(vit.pos_embed[:, first:], places)
    if prefix:
        tokens = torch.cat(prefix, dim=1)
        if vit.pos_embed is not None:
            tokens = tokens + vit.pos_embed[:, :first]
        x = torch.cat([tokens.expand(len(x), -1, -1), x], dim=1)
    x = vit.blocks(vit.norm_pre(vit.pos_drop(x)))
    # One of the two is a norm. Before average pooling fc_norm would get no gradient otherwise.
    return vit.fc_norm(vit.norm(x))
