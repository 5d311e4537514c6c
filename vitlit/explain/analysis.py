"""What a model has learned, told by its weights alone.

ViT -> position similarity (N, rows, cols), filters (k, C, p, p), heads' numbers (blocks, h)
"""

import torch
from torch import Tensor

from vitlit.explain.attribution import attentions, position_similarity, principal_filters
from vitlit.model.locality import GatedPositionalAttention, LocalitySelfAttention
from vitlit.model.positions import rope_similarity
from vitlit.model.vit import ViT


def analyse_weights(model: ViT) -> tuple[Tensor | None, Tensor]:
    """Similarity of the positions, None where there are none, and the principal filters."""
    filters = principal_filters(model.patch_embed.filters().detach().cpu())
    if model.config["pos_embed"] == "rope":
        width = model.embed_dim // model.config["num_heads"]
        similarity = rope_similarity(*model.grid_size, width)
        return similarity.unflatten(1, model.grid_size), filters  # type: ignore[no-untyped-call]
    if model.pos_embed is None:
        return None, filters
    table = model.pos_embed.detach().cpu()
    prefix = table.shape[1] - model.grid_size[0] * model.grid_size[1]
    return position_similarity(table, grid=model.grid_size, prefix=prefix), filters


def attention_fact(model: ViT) -> str:
    """The kind of attention, and what its heads have learned of locality, in words."""
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


def _describe_range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def head_arrays(model: ViT) -> dict[str, Tensor]:
    """What heads have learned of locality, ``(blocks, h)``: their temperature, their gate.

    temperature: what the logits are divided by, in units of softmax's, sqrt(D/h); gate: the share
    of attention that is decided by position. Either is there where the model has it.
    """
    layers = attentions(model)
    lsa = [layer for layer in layers if isinstance(layer, LocalitySelfAttention)]
    gpsa = [layer for layer in layers if isinstance(layer, GatedPositionalAttention)]
    found: dict[str, Tensor] = {}
    if lsa:
        rows = [layer.scale / layer.sharpness.detach().cpu() for layer in lsa]
        found["temperature"] = torch.stack(rows)
    if gpsa:
        found["gate"] = torch.stack([layer.gate.detach().cpu().sigmoid() for layer in gpsa])
    return found
