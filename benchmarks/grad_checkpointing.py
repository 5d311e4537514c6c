"""Memory and time of a training step with and without --model.grad_checkpointing, on the CPU.

Memory is that of the tensors which the graph keeps for the backward pass, by
torch.autograd.graph.saved_tensors_hooks; weights are left out. With checkpointing its peak is what
the forward pass keeps, and what one block keeps once it is computed again. Time is the process's
CPU time of forward and backward passes, which take turns; ratios are of medians.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from vitlit.model.vit import ViT

MODELS: dict[str, dict[str, Any]] = {
    "ViT-Ti/16": {"embed_dim": 192, "num_heads": 3},
    "ViT-S/16": {"embed_dim": 384, "num_heads": 6},
    "ViT-B/16": {"embed_dim": 768, "num_heads": 12},
}
MIB = 2**20


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that the graph of ``model(x)`` keeps, each storage once, without the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # the result holds the graph, and with it every storage: no address is used twice
        result = model(x)
    del result
    return sum(found.values())


def peak_bytes(model: ViT, x: Tensor, again: bool) -> int:
    """The most that the graph keeps at a time in a step."""
    model.blocks.set_grad_checkpointing(again)
    kept = saved_bytes(model, x)
    if not again:
        return kept
    with torch.no_grad():
        tokens = model.embed(x)
    # its input is kept by the forward pass already
    return kept + saved_bytes(model.blocks[0], tokens) - tokens.nbytes


def step_seconds(model: ViT, x: Tensor, again: bool) -> float:
    """CPU seconds of a forward and a backward pass."""
    model.blocks.set_grad_checkpointing(again)
    model.zero_grad()
    start = time.process_time()
    model(x).square().sum().backward()
    return time.process_time() - start


def row(name: str, batch: int, rounds: int) -> str:
    """A row of the table in grad_checkpointing.md."""
    model = ViT(**MODELS[name]).train()
    x = torch.randn(batch, 3, 224, 224)
    without, with_it = (peak_bytes(model, x, again) / MIB for again in (False, True))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(rounds + 1):
        for again in (False, True):
            spent = step_seconds(model, x, again)
            if turn:  # the first warms up
                seconds[again].append(spent)
    ratio = statistics.median(seconds[True]) / statistics.median(seconds[False])
    share = with_it / without
    return f"| {name} | {batch} | {without:.0f} | {with_it:.0f} | {share:.2f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    told = parser.parse_args()
    print("| model | batch | MiB kept without | MiB at most with it | ratio | CPU time, ratio |")
    print("|---|---|---|---|---|---|")
    for name in told.models:
        print(row(name, told.batch, told.rounds), flush=True)


if __name__ == "__main__":
    main()
