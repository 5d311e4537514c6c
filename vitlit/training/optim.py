"""What the optimiser needs: parameter groups, and the learning-rate factor of each step.

module -> groups by layer and weight decay; step -> factor of the learning rate, in [0, 1]
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vitlit.errors import InputError
from vitlit.model.attention import has_bf16_units

if TYPE_CHECKING:  # commands that do not train need none of Lightning, which takes seconds
    import pytorch_lightning as pl

OptimizerName = Literal["adamw", "adam", "sgd", "muon"]

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

# Of Muon: its momentum, and x -> a x + b x^3 + c x^5 for the singular values (Jordan, 2024).
MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.775, 2.0315)
ITERATIONS = 5
TINY = 1e-7  # the least norm that a matrix is divided by


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
) -> list[dict[str, Any]]:
    """Groups by learning rate and weight decay, first layer first, without frozen parameters.

    decay: ``matrices`` spares biases, norms, positions and tokens; ``all`` spares none.
    layer_decay: each layer has this factor times the rate of the layer above it, as in BEiT; the
    last groups have the rate ``lr``. depth: number of blocks. muon_lr: if given, the rate of the
    matrices of the blocks and the filters of a stem, whose groups are marked for
    :class:`MuonAdamW`.
    """
    found: dict[tuple[int, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim > 1 and name.rpartition(".")[2] not in NOT_MATRICES
        # One group for all layers where they share a rate: each group costs a kernel launch.
        layer = layer_of(name, depth) if layer_decay != 1.0 else depth + 1
        is_muons = muon_lr is not None and is_matrix and is_for_muon(name)
        found.setdefault((layer, not is_muons, decay == "all" or is_matrix), []).append(parameter)
    # A fixed order: optimisers save their state by the position of a parameter in the groups, and
    # logging reads the head's rate from the last group.
    groups = []
    for layer, is_adamws, decays in sorted(found, key=lambda key: (*key[:2], not key[2])):
        rate = lr if is_adamws or muon_lr is None else muon_lr
        group = {
            "params": found[layer, is_adamws, decays],
            "weight_decay": weight_decay if decays else 0.0,
            "lr": rate * layer_decay ** (depth + 1 - layer),
        }
        groups.append(group if muon_lr is None else {**group, "is_muon": not is_adamws})
    return groups


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan, 2024) for groups with ``is_muon``, AdamW for the others, as one optimiser.

    One state, one schedule and one checkpoint, as Lightning and gradient accumulation expect them.
    The updates are those of ``torch.optim.Muon`` and ``torch.optim.AdamW``; filters
    ``(D, C, h, w)`` are updated as matrices ``(D, C*h*w)``. Muon's rates are in the units of
    AdamW's: an update has the size that AdamW's usually has (Liu et al., 2025, arXiv 2502.16982,
    section 2.2).
    """

    found_inf: Tensor | None = None  # set, to 1, before a step that must change nothing

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, fused: bool | None) -> None:
        others = [group for group in groups if not group["is_muon"]]
        self._adamw = torch.optim.AdamW(others, lr=lr, fused=fused)
        super().__init__(groups, {})  # the same dicts, which AdamW has filled with defaults

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # each time: loading a state replaces both
        self._adamw.param_groups = [g for g in self.param_groups if not g["is_muon"]]
        self._adamw.state = self.state
        self._adamw.found_inf = self.found_inf  # type: ignore[attr-defined]
        self._adamw.step()
        for group in self.param_groups:
            for weight in group["params"] if group["is_muon"] else ():
                if weight.grad is not None:
                    self._update(weight, group["lr"], group["weight_decay"])
        return loss

    def _update(self, weight: Tensor, lr: float, weight_decay: float) -> None:
        """One weight and its momentum, which is zero before the first step."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"]
        moved = momentum.lerp(gradient, 1 - MOMENTUM)
        change = orthogonal(gradient.lerp(moved, MOMENTUM).flatten(1))  # Nesterov's momentum
        size = 0.2 * math.sqrt(max(change.shape))  # the usual size of AdamW's updates
        updated = (weight * (1 - lr * weight_decay)).add_(change.view_as(weight), alpha=-lr * size)
        if self.found_inf is not None:
            # chosen on the device: reading the flag would wait for it
            is_finite = self.found_inf == 0
            moved = torch.where(is_finite, moved, momentum)
            updated = torch.where(is_finite, updated, weight)
        momentum.copy_(moved)
        weight.copy_(updated)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values brought near 1: ``(rows, columns)``.

    By Newton-Schulz iterations (Jordan, 2024), as in ``torch.optim.Muon``. That computes in
    bfloat16, which would double the time of a training step on a processor without units for it
    (benchmarks/muon.md); there this takes float32.
    """
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() if has_bf16_units(matrix.device.type) else matrix.float()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / x.norm().clamp(min=TINY)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if is_tall else x).to(matrix.dtype)


def make_optimizer(
    kind: OptimizerName,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    momentum: float,
    fused: bool | None,
) -> torch.optim.Optimizer:
    """The optimiser of parameter groups. momentum: of sgd; fused: as torch's optimisers take it."""
    match kind:
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, lr=lr, fused=fused)
        case "muon":
            return MuonAdamW(groups, lr=lr, fused=fused)
    sgd = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused)
    # torch's fused SGD allocates the momentum in its first update. If that is skipped, because it
    # is not finite, the memory keeps what was in it, and the next update adds that to the weights.
    # A momentum of 0 does not change the first update.
    for group in groups if momentum else []:
        for parameter in group["params"]:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def spread_non_finite(loss: Tensor) -> Tensor:
    """The same loss; if it is not finite, its gradients are not finite either.

    An infinite loss can have finite gradients. DDP averages gradients, not losses, so the other
    processes would then train on without knowing.
    """
    return loss * (loss.detach() * 0 + 1)  # inf * 0 and nan * 0 are nan; otherwise the factor is 1


def warmup_cosine(step: int, *, total: int, warmup: int, floor: float) -> float:
    """Learning-rate factor of a step: linear from 1/warmup to 1, then half a cosine to ``floor``.

    step: optimiser steps done so far; total, warmup: steps of the run and of its warmup;
    floor: the factor at the end (Loshchilov and Hutter, 2017, equation 5, without restarts).
    """
    if step < warmup:
        return (step + 1) / warmup  # + 1: a first step at rate 0 would be wasted
    # At most 1: the cosine would rise again after the end.
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_constant(step: int, *, warmup: int) -> float:
    """Learning-rate factor of a step: linear from 1/warmup to 1, then 1."""
    return min(1.0, (step + 1) / max(1, warmup))


def schedule_factor(
    kind: Literal["cosine", "constant"], *, total: float, warmup: int, floor: float
) -> Callable[[int], float]:
    """The factor as a function of the step, for ``LambdaLR``.

    total: optimiser steps of the whole run, infinite if the run has no planned end; then a cosine
    raises InputError.
    """
    if kind == "constant":
        return lambda step: warmup_constant(step, warmup=warmup)
    if not math.isfinite(total):
        raise InputError(
            "schedule cosine needs to know the end of training; "
            "give max_epochs or max_steps, or schedule constant",
            argument=("max_epochs", "max_steps", "schedule"),
        )
    return lambda step: warmup_cosine(step, total=int(total), warmup=warmup, floor=floor)


def warmup_steps(settings: Mapping[str, Any], total: float, trainer: "pl.Trainer") -> int:
    """Warmup in optimiser steps.

    settings: the three ways to say it; total: steps of the run, infinite if it has no planned end.
    Raises InputError if warmup_fraction is a share of an unknown number of steps.
    """
    if settings["warmup_fraction"]:
        if not math.isfinite(total):
            raise InputError(
                "warmup_fraction needs to know the end of training; give max_epochs or max_steps",
                argument=("max_epochs", "max_steps"),
            )
        return round(settings["warmup_fraction"] * total)
    if not settings["warmup_epochs"]:
        return settings["warmup_steps"]
    # estimated_stepping_batches loads the data only if max_epochs is set; until then
    # num_training_batches is infinite.
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    # Rounded up: Lightning steps on the last batch even if the accumulation is not complete.
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    return round(settings["warmup_epochs"] * per_epoch)


def check_rates(lr: float, min_lr: float) -> None:
    """Refuse learning rates at which nothing is learned, or the schedule would rise."""
    if not 0 < lr < math.inf:
        raise InputError(f"lr {lr} is not positive; give one above 0", argument="lr")
    if not 0 <= min_lr <= lr:
        raise InputError(
            f"min_lr {min_lr} is not between 0 and lr {lr}; give one that is", argument="min_lr"
        )


def check_muon_lr(muon_lr: float, optimizer: str) -> None:
    """Refuse a rate of Muon that no update would have, or that is not positive."""
    if optimizer != "muon":
        raise InputError(
            f"muon_lr {muon_lr} is for optimizer muon, not {optimizer}; give that, or leave it out",
            argument=("muon_lr", "optimizer"),
        )
    if not 0 < muon_lr < math.inf:
        raise InputError(f"muon_lr {muon_lr} is not positive; give one above 0", argument="muon_lr")
