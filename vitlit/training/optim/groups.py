"""Which parameters are trained, in groups by layer, weight decay and optimiser.

module -> groups of its parameters, first layer first
"""

from typing import Any, Literal

from torch import nn

# Tables and vectors, although they have two axes or more: decay "matrices" spares them. locality is
# the positional part of GPSA (d'Ascoli et al., 2021), latent the query of global_pool map.
NOT_MATRICES = (
    "pos_embed",
    "cls_token",
    "reg_token",
    "mask_token",
    "locality",
    "latent",
    "relative_position_bias_table",
)


def layer_of(name: str, depth: int) -> int:
    """The layer that a parameter of a ViT belongs to, counted as in BEiT (Bao et al., 2022).

    Layer 0 holds the patch embedding, positions, tokens and the norm before the blocks; layer i+1
    holds block i; layer depth+1 the last norm, the pooling and the head. name: that of the state
    dict, with or without a prefix.
    """
    parts = name.split(".")
    if "blocks" in parts:
        return int(parts[parts.index("blocks") + 1]) + 1
    is_table = parts[-1] in NOT_MATRICES and "attn_pool" not in parts
    is_first = is_table or "patch_embed" in parts or "norm_pre" in parts
    return 0 if is_first else depth + 1


def freeze(module: nn.Module, blocks: int, depth: int) -> None:
    """Freeze the embedding and the first ``blocks`` blocks; -1 freezes everything but the head."""
    for name, parameter in module.named_parameters():
        if blocks == -1:
            parameter.requires_grad_("head" in name.split("."))
        elif blocks > 0:
            parameter.requires_grad_(layer_of(name, depth) > blocks)


def is_for_muon(name: str) -> bool:
    """Whether Muon updates this matrix: in a block, or a filter of a convolutional stem.

    The first convolution is AdamW's, as Jordan (2024) has it for first and last layers.
    """
    parts = name.split(".")
    return "blocks" in parts or ("convs" in parts and parts[parts.index("convs") + 1] != "0")


def parameter_groups(
    module: nn.Module,
    *,
    weight_decay: float,
    decay: Literal["matrices", "all"],
    lr: float = 1e-3,
    layer_decay: float = 1.0,
    depth: int = 0,
    muon_lr: float | None = None,
    head_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Groups by learning rate and weight decay, first layer first, without frozen parameters.

    decay: ``matrices`` spares biases, norms, positions and tokens; ``all`` spares none.
    layer_decay: each layer has this factor times the rate of the layer above it, as in BEiT; the
    last groups have the rate ``lr``. depth: number of blocks. muon_lr: if given, the rate of the
    matrices of the blocks and the filters of a stem, whose groups are marked for
    :class:`MuonAdamW`. head_lr: if given, the rate of the head, whose groups come first.
    """
    found: dict[tuple[bool, int, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim > 1 and name.rpartition(".")[2] not in NOT_MATRICES
        # One group for all layers where they share a rate: each group costs a kernel launch.
        layer = layer_of(name, depth) if layer_decay != 1.0 else depth + 1
        is_muons = muon_lr is not None and is_matrix and is_for_muon(name)
        is_heads = head_lr is not None and "head" in name.split(".")
        key = not is_heads, layer, not is_muons, decay == "all" or is_matrix
        found.setdefault(key, []).append(parameter)
    # A fixed order: optimisers save their state by the position of a parameter in the groups, and
    # logging reads the rate ``lr`` from the last group.
    groups = []
    for key in sorted(found, key=lambda key: (*key[:3], not key[3])):
        is_body, layer, is_adamws, decays = key
        rate = lr if is_adamws or muon_lr is None else muon_lr
        rate *= layer_decay ** (depth + 1 - layer)
        group = {
            "params": found[key],
            "weight_decay": weight_decay if decays else 0.0,
            "lr": rate if is_body or head_lr is None else head_lr,
        }
        groups.append(group if muon_lr is None else {**group, "is_muon": not is_adamws})
    return groups
