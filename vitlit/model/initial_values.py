"""Initial values of a ViT, as in the paper's published code; and of attention that starts local.

ViT -> the same ViT, its parameters drawn anew
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlit.model.blocks import Block
from vitlit.model.local_attention import GatedPositionalAttention
from vitlit.model.patch_embed import ConvStem, PatchEmbed
from vitlit.model.pooling import AttentionPool, SequencePool
from vitlit.patches import Grid

AttentionInitName = Literal["xavier", "structured"]

JOINED = {"qkv": 3, "kv": 2}  # layers that hold several matrices, one below the other
# Structured initialisation (Zheng et al., 2025, arXiv 2505.19985). The numbers are those of the
# authors' code, which the paper's text does not give in full.
CELLS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))  # of a head
IMPULSE, NOISE = 1000.0, 1.8  # logit of the one patch, standard deviation of all others
QUERY_NORM = 7.0  # Frobenius norm of a head's queries and keys
POSITIONS = 18.0  # factor of the learned positions: standard deviation 0.36 instead of 0.02
# Correlations that whitening expects of an image: of neighbouring pixels, and of two channels.
NEIGHBOURS, CHANNELS = 0.9, 0.9
# Added to the variance of each filter before its output is scaled to variance 1: a filter with
# almost no variance would otherwise be scaled up so far that its noise counts as much as the rest.
SMALLEST_VARIANCE = 5e-4
COPIED = 0.4  # values times projection: minus this part of the token, and noise of the same size


@torch.no_grad()
def init_matrices(model: nn.Module) -> None:
    """Xavier uniform for every matrix, 0 for every bias; nothing else is changed."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # Xavier's bound depends on the shape: (3D, D) as one matrix would start smaller
            parts = JOINED.get(name.rpartition(".")[2], 1)
            for matrix in module.weight.chunk(parts):
                nn.init.xavier_uniform_(matrix)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def init_weights(model: nn.Module) -> None:
    """Initial values as in the paper's published code (google-research/vision_transformer).

    * every matrix: Xavier uniform, queries, keys and values as three separate matrices;
    * every bias and the class token: 0; the head: all 0, so the first loss is log(num_classes);
    * learned positions and registers: normal with standard deviation 0.02;
    * ``patch_embed=linear``: Xavier uniform on the flattened patch;
    * ``patch_embed=conv``: left as PyTorch initialises a Conv2d (Kaiming uniform, a = sqrt 5);
    * the layers of ``patch_embed=conv_stem``: Kaiming normal, as in CCT's code; with
      ``stem_convs`` above 1 the first of them whitens the image, see ``whitening_filters``;
    * ``attention=gpsa``: as in ConViT, see ``GatedPositionalAttention.start_local``;
    * the scores of ``global_pool=seq``: normal with standard deviation 0.02, as in CCT's code;
    * the query of ``global_pool=map``: normal with standard deviation 1 / sqrt(D), as in timm.

    A model on the meta device has no values, and stays as it is.
    """
    if next(model.parameters()).is_meta:  # to draw normal values there, torch imports its compiler
        return
    init_matrices(model)
    for module in model.modules():  # after init_matrices, which gave their values Xavier's
        if isinstance(module, GatedPositionalAttention):
            module.start_local()
        if isinstance(module, PatchEmbed) and module.kind == "linear":
            nn.init.xavier_uniform_(module.proj.weight.flatten(1))
            if module.proj.bias is not None:
                nn.init.zeros_(module.proj.bias)
        if isinstance(module, ConvStem) and module.norms:
            first = module.filters()
            known = whitening_filters(first.shape[1])[: len(first)]
            first[: len(known)] = known  # a wide stem keeps its other filters as they were drawn
    tables = dict(model.named_parameters(recurse=False))
    for name in ("pos_embed", "reg_token"):  # equal registers would get equal gradients
        if name in tables:
            nn.init.normal_(tables[name], std=0.02)
    for module in model.modules():
        if isinstance(module, SequencePool):
            nn.init.normal_(module.score.weight, std=0.02)
        if isinstance(module, AttentionPool):
            nn.init.normal_(module.latent, std=module.latent.shape[-1] ** -0.5)
    head = dict(model.named_children())["head"]
    if isinstance(head, nn.Linear):  # last: the loop above gave it Xavier's values
        nn.init.zeros_(head.weight)


def whitening_filters(channels: int, size: int = 3) -> Tensor:
    """Filters whose outputs on usual images have variance 1, nearly uncorrelated; their negatives.

    Whitening as the first layer is from Jordan (2024, arXiv 2404.00498, section 3.2), who finds the
    filters as principal components of the training images. Here they are those of the images that
    the cosine transform is made for (Ahmed, Natarajan and Rao, 1974): pixels correlate by
    ``NEIGHBOURS ** distance`` along each axis, channels by ``CHANNELS``. So they need no images,
    are the same on every machine, and begin with brightness, its two gradients, and colours.

    Returns ``(2 * channels * size * size, channels, size, size)``, each filter followed by its
    negative, the largest variance first.
    """
    apart = (torch.arange(size)[:, None] - torch.arange(size)).abs()
    pixels, colours = cosines(size), cosines(channels)
    along = variances(pixels, NEIGHBOURS ** apart.double())
    across = variances(colours, CHANNELS + (1 - CHANNELS) * torch.eye(channels).double())
    basis = torch.einsum("ac,bi,dj->abdcij", colours, pixels, pixels).flatten(0, 2)
    spread = torch.einsum("a,b,d->abd", across, along, along).flatten()
    order = spread.round(decimals=9).argsort(descending=True, stable=True)  # equal ones in order
    filters = (basis / (spread + SMALLEST_VARIANCE).sqrt()[:, None, None, None])[order]
    return torch.stack([filters, -filters], dim=1).flatten(0, 1).float()


def cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II), float64 ``(size, size)``, a row per frequency."""
    steps = torch.arange(size, dtype=torch.float64)
    table = torch.cos(math.pi / size * steps[:, None] * (steps + 0.5))
    return F.normalize(table, dim=1)


def variances(basis: Tensor, correlation: Tensor) -> Tensor:
    """Variance of each row's product with numbers that correlate so: ``(n,)``."""
    return torch.einsum("ai,ij,aj->a", basis, correlation, basis)


@torch.no_grad()
def init_structured(encoder: nn.Module, positions: Tensor, grid: Grid) -> None:
    """Start attention as a convolution with one 1 in each kernel: head i looks at ``CELLS[i]``.

    The queries and keys are those whose logits, of the positions alone, are nearest to a large
    number at that neighbour of each patch; where the image ends, and everywhere else, noise.
    Values and projection together start near -0.4 times the token (mimetic initialisation, Trockman
    and Kolter, 2023), as in the authors' code.

    positions: learned ones, added to the tokens ``(1, prefix+N, D)``. They are made larger, in
    place: as small as usual they would count for nothing beside the patches.
    """
    if positions.is_meta:
        return
    positions.mul_(POSITIONS)
    places = positions[0, -math.prod(grid) :]  # of the patches
    for block in (child for child in encoder.children() if isinstance(child, Block)):
        query, key, value = block.attn.qkv.weight.chunk(3)
        table = block.norm1(places.to(value)).double()
        heads = zip(query.chunk(block.attn.num_heads), key.chunk(block.attn.num_heads), strict=True)
        for number, head in enumerate(heads):
            logits = impulse_logits(grid, CELLS[number % len(CELLS)])
            for matrix, start in zip(
                head, nearest_factors(table, logits, len(head[0])), strict=True
            ):
                matrix.copy_(start)
        noise = torch.empty(value.shape, dtype=torch.float64).uniform_(-(3**0.5), 3**0.5)
        copied = noise / len(value) ** 0.5 - torch.eye(len(value), dtype=torch.float64)
        left, sizes, right = torch.linalg.svd(COPIED * copied)
        value.copy_((left * sizes.sqrt()).T)
        block.attn.proj.weight.copy_((sizes.sqrt()[:, None] * right).T)


def impulse_logits(grid: Grid, cell: tuple[int, int]) -> Tensor:
    """Logits wanted of a head, float64 ``(N, N)``: ``IMPULSE`` at the neighbour ``cell``."""
    rows, cols = grid
    found = torch.empty(rows, cols, rows, cols, dtype=torch.float64)
    nn.init.trunc_normal_(found, std=NOISE, a=-6.0, b=6.0)
    down, across = (
        torch.arange(max(0, -step), size - max(0, step))
        for step, size in zip(cell, grid, strict=True)
    )
    y, x = torch.meshgrid(down, across, indexing="ij")
    found[y, x, y + cell[0], x + cell[1]] = IMPULSE
    return found.view(rows * cols, rows * cols)


def nearest_factors(table: Tensor, logits: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Rows of queries and keys, each ``(width, D)``, whose product is nearest to the logits.

    With P the table ``(N, D)``, A = query^T key minimises |P A P^T - logits| among the matrices
    that use the ``width`` main directions of P; both parts then get the norm ``QUERY_NORM``.
    """
    left, sizes, right = torch.linalg.svd(table, full_matrices=False)
    # fewer where a grid is small: the others would be divided by almost nothing
    count = min(width, int((sizes > 1e-5 * sizes[0]).sum()))
    left, sizes, right = left[:, :count], sizes[:count], right[:count]
    middle = left.T @ logits @ left / (sizes[:, None] * sizes)  # A in those directions
    first, parts, second = torch.linalg.svd(middle)
    query, key = (
        F.pad(parts.sqrt()[:, None] * side @ right, (0, 0, 0, width - count))
        for side in (first.T, second)
    )
    return QUERY_NORM * query / query.norm(), QUERY_NORM * key / key.norm()
