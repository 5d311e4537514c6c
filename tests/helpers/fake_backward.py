"""Backward passes without torch's engine, which asks the device for a stream before it starts.

outputs, their gradients -> gradients of the leaves, or of given tensors

The nodes of the graph are those of torch; only the order in which they run is decided here.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor


def backward(tensors: Any, gradient: Any = None, *_: Any, inputs: Any = None, **__: Any) -> None:
    """Stands for ``Tensor.backward``: torch's engine needs a stream of the device."""
    roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    given = [gradient] if isinstance(gradient, Tensor) or gradient is None else list(gradient)
    _run_graph(roots, given)


def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **_: Any) -> tuple[Tensor, ...]:
    """Stands for ``torch.autograd.grad``."""
    roots = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    given = list(grad_outputs) if grad_outputs is not None else [None] * len(roots)
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    found: list[Any] = [None] * len(wanted)
    _run_graph(roots, given, {_edge(one): i for i, one in enumerate(wanted)}, found)
    return tuple(found)


def _edge(tensor: Tensor) -> tuple[Any, int]:
    return (tensor.grad_fn or _accumulator(tensor), tensor.output_nr)


def _accumulator(leaf: Tensor) -> Any:
    with torch.enable_grad():
        return leaf.view_as(leaf).grad_fn.next_functions[0][0]  # type: ignore[union-attr]


@torch.no_grad()
def _run_graph(
    roots: list[Tensor],
    given: list[Tensor | None],
    wanted: dict[tuple[Any, int], int] | None = None,
    found: list[Any] | None = None,
) -> None:
    """Call each node of the graph once all gradients that flow into it are there.

    wanted: edges whose gradients go to ``found``, at these places; leaves then get none.
    """
    missing = _count_uses([root.grad_fn for root in roots])
    buffers: dict[Any, dict[int, Tensor]] = {}

    def add(node: Any, place: int, gradient: Tensor) -> None:
        like = node._input_metadata[place]
        if list(gradient.shape) != list(like.shape):  # the engine reduces what was broadcast
            gradient = gradient.sum_to_size(*like.shape)
        row = buffers.setdefault(node, {})
        gradient = gradient.to(like.dtype)
        row[place] = row[place] + gradient if place in row else gradient

    for root, gradient in zip(roots, given, strict=True):
        add(root.grad_fn, root.output_nr, torch.ones_like(root) if gradient is None else gradient)
    ready = [node for node in dict.fromkeys(root.grad_fn for root in roots) if not missing[node]]
    while ready:
        node = ready.pop()
        row = buffers.pop(node, {})
        for place, gradient in row.items():
            if wanted is not None and (node, place) in wanted:
                assert found is not None
                found[wanted[node, place]] = gradient
        # the inputs of a graph that is being compiled have a node that only raises an error
        is_leaf = hasattr(node, "variable") or node.name().endswith("Error")
        results: Any = ()
        if row and not (is_leaf and wanted is not None):
            call = node if callable(node) else node.apply  # of a Function in Python
            results = call(*(row.get(i) for i in range(len(node._input_metadata))))
            results = results if isinstance(results, tuple) else (results,)
        for i, (child, place) in enumerate(node.next_functions):
            if child is None:
                continue
            if i < len(results) and results[i] is not None:
                add(child, place, results[i])
            missing[child] -= 1
            if not missing[child]:
                ready.append(child)


def _count_uses(roots: list[Any]) -> Counter[Any]:
    """How many edges of the graph below the roots lead to each node."""
    uses: Counter[Any] = Counter()
    ahead, seen = list(roots), set(roots)
    while ahead:
        for child, _ in ahead.pop().next_functions:
            if child is None:
                continue
            uses[child] += 1
            if child not in seen:
                seen.add(child)
                ahead.append(child)
    return uses
