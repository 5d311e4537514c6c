"""What a model has learned, read from its weights and its attention maps.

ViT -> position similarity (N, rows, cols), principal filters (k, C, P, P), numbers of the heads
       (blocks, h); attention maps (L, B, h, N, N) -> mean attention distance (L, h)

"Paper" is Dosovitskiy et al. (2021), whose figure 7 shows three of these.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlit.explain.attribution import attentions, check_patch_count
from vitlit.model.local_attention import GatedPositionalAttention, LocalitySelfAttention
from vitlit.model.positions import rope_similarity
from vitlit.model.vit import ViT
from vitlit.patches import Grid


def analyse_weights(model: ViT) -> tuple[Tensor | None, Tensor]:
    """Position similarity ``(N, rows, cols)``, None without positions, and principal filters.

    Of a model with both added and rotary positions, the added ones are compared.
    """
    filters = principal_filters(model.patch_embed.filters().detach().cpu())
    rotations = model.rope_table()
    if model.pos_embed is None:
        if rotations is None:
            return None, filters
        return torch.unflatten(rope_similarity(rotations), 1, model.grid_size), filters
    table = model.pos_embed.detach().cpu()
    prefix = table.shape[1] - model.grid_size[0] * model.grid_size[1]
    return position_similarity(table, grid=model.grid_size, prefix=prefix), filters


def attention_fact(model: ViT) -> str:
    """The kind of attention, and what its heads have learned about locality, in words."""
    learned = head_arrays(model)
    if "temperature" in learned:
        low, high = learned["temperature"].min(), learned["temperature"].max()
        return f"lsa, temperatures {_describe_range(f'{low:.2f}', f'{high:.2f}')}"
    if "gate" in learned:
        low, high = learned["gate"].min(), learned["gate"].max()
        last = len(learned["gate"]) - 1
        blocks = f"blocks 0 to {last}" if last else "block 0"
        return f"gpsa in {blocks}, position counts {_describe_range(f'{low:.0%}', f'{high:.0%}')}"
    return str(model.config["attention"])


def positions_fact(model: ViT) -> str:
    """The added and the rotary positions, in words."""
    told = model.config
    kinds = [told["pos_embed"]] if told["pos_embed"] != "none" else []
    if told["rope"] != "none":
        kinds.append(f"rotary ({told['rope']}, base {told['rope_base']:g})")
    return " and ".join(kinds) or "none"


def _describe_range(low: str, high: str) -> str:
    # compared as words: what rounds to the same is no range for a reader
    return low if low == high else f"{low} to {high}"


def head_arrays(model: ViT) -> dict[str, Tensor]:
    """What heads have learned about locality, ``(blocks, h)``; empty for plain attention.

    temperature (attention lsa): the divisor of the logits, in units of the usual sqrt(D/h); gate
    (attention gpsa): the share of attention that position decides, in the gated blocks.
    """
    layers = attentions(model)
    lsa = [layer for layer in layers if isinstance(layer, LocalitySelfAttention)]
    gpsa = [layer for layer in layers if isinstance(layer, GatedPositionalAttention)]
    found: dict[str, Tensor] = {}
    if lsa:
        # sharpness multiplies the logits where others multiply by scale: a ratio of 1 is usual
        rows = [layer.scale / layer.sharpness.detach().cpu() for layer in lsa]
        found["temperature"] = torch.stack(rows)
    if gpsa:
        found["gate"] = torch.stack([layer.gate.detach().cpu().sigmoid() for layer in gpsa])
    return found


def mean_attention_distance(maps: Tensor, *, grid: Grid, patch_size: int, prefix: int) -> Tensor:
    """How far each head looks: distance between patches, weighted by attention (paper, fig. 7).

    maps: ``(L, B, h, N, N)``; only attention from patches to patches counts, rescaled to sum to
    1. Returns ``(L, h)`` in pixels, the mean over images and patches.
    """
    check_patch_count(maps.shape[-1], grid, prefix)
    down, across = (torch.arange(count, dtype=maps.dtype, device=maps.device) for count in grid)
    places = torch.cartesian_prod(down, across) * patch_size  # (rows * cols, 2)
    distances = (places[:, None] - places).norm(dim=2)
    found = []
    # one block at a time: the product below is as large as the maps themselves
    for heads in maps[..., prefix:, prefix:]:
        # clamped: a patch may attend to prefix tokens alone
        total = heads.sum(dim=-1).clamp(min=torch.finfo(maps.dtype).tiny)
        found.append(((heads * distances).sum(dim=-1) / total).mean(dim=(0, 2)))
    return torch.stack(found)


def position_similarity(pos_embed: Tensor, *, grid: Grid, prefix: int) -> Tensor:
    """Cosine similarity of each patch's position embedding to all others (paper, fig. 7 centre).

    pos_embed: ``(1, prefix+N, D)``. Returns ``(N, rows, cols)``, 1 at the patch's own place.
    """
    check_patch_count(pos_embed.shape[-2], grid, prefix)
    table = F.normalize(pos_embed.detach().flatten(0, -2)[prefix:], dim=1)  # (N, D)
    return torch.unflatten(table @ table.T, 1, grid)


def principal_filters(weight: Tensor, *, count: int = 28) -> Tensor:
    """Principal components of the patch embedding's filters (paper, fig. 7 left).

    weight: ``(D, C, P, P)``. Returns ``(count, C, P, P)``, orthonormal, the strongest first, or
    fewer if the filters span fewer. The sign of a component has no meaning; the value of the
    largest magnitude is made positive.
    """
    filters = weight.detach().flatten(1).float()
    _, strength, components = torch.linalg.svd(filters - filters.mean(dim=0), full_matrices=False)
    # numpy.linalg.matrix_rank's threshold: weaker components are rounding
    rounding = strength[0] * max(filters.shape) * torch.finfo(torch.float32).eps
    components = components[strength > rounding][:count]
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).reshape(-1, *weight.shape[1:])
