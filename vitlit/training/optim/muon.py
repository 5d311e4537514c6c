"""Muon for matrices and AdamW for everything else, as one optimiser.

gradient (rows, columns) -> an update of the same shape, whose singular values are near 1
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vitlit.model.attention import has_bf16_units

# Of Muon: its momentum, and x -> a x + b x^3 + c x^5 for the singular values (Jordan, 2024).
MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.775, 2.0315)
ITERATIONS = 5
TINY = 1e-7  # the least norm that a matrix is divided by


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
