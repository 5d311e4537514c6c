"""Mixed precision with few launches: all weights are cast at once, not each by a kernel of its own.

images -> logits, as under autocast to the bit
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

CAST_LAYERS = (nn.Linear, nn.Conv2d)  # whose weights autocast casts


def saves_launches(x: Tensor) -> bool:
    """Whether casting together is faster for a batch: in mixed precision on a GPU.

    Compiled too: within the graph each cast, and that of each gradient, is a kernel of its own.
    """
    return x.is_cuda and torch.is_autocast_enabled("cuda")


def weights_to_cast(model: nn.Module) -> dict[str, Tensor]:
    """The weights, by name, that autocast casts in each step: matrices first."""
    found = {
        f"{name}.{kind}": weight
        for name, layer in model.named_modules()
        if isinstance(layer, CAST_LAYERS)
        for kind, weight in layer.named_parameters(recurse=False)
    }
    # biases last: one of odd length would put the matrices behind it at odd places in memory,
    # where products are slower
    return dict(sorted(found.items(), key=lambda item: item[1].ndim == 1))


def forward_with_cast_weights(model: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """``model(x)`` under autocast to ``dtype``, with its weights cast together.

    Two launches cast them and two their gradients, which come after the whole backward pass.
    """
    cast = cast_together(weights_to_cast(model), dtype)
    logits: Tensor = functional_call(model, cast, (x,))
    return logits


def cast_together(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights in ``dtype``: those that are trained at once, and those that are frozen at once.

    In one piece with the others, the frozen ones would get gradients too.
    """
    cast: dict[str, Tensor] = {}
    for is_trained in (True, False):
        part = {name: one for name, one in weights.items() if one.requires_grad is is_trained}
        cast |= _cast(part, dtype) if part else {}
    return cast


def _cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    flat = torch.cat([weight.flatten() for weight in weights.values()]).to(dtype)
    parts = torch.split(flat, [weight.numel() for weight in weights.values()])
    return {
        name: part.view_as(weight)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }
