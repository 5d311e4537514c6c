"""Casting all weights together: autocast's numbers to the bit, and how many launches a step has."""

import copy
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_device import DEVICE, NO_KERNEL, fake_device
from torch import Tensor
from torch._dynamo.utils import counters
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode

from vitlit.fault_tolerance.lightning_internals import non_finite
from vitlit.model import attention
from vitlit.model.cast_weights import (
    cast_together,
    forward_with_cast_weights,
    saves_launches,
    weights_to_cast,
)
from vitlit.model.low_rank import add_adapters
from vitlit.model.vit import ViT
from vitlit.training.classifier import Classifier
from vitlit.training.compiling import NOT_A_LEAF
from vitlit.training.loss import cross_entropy
from vitlit.training.optim import parameter_groups

# of cifar10.yaml, measured with torch 2.15: model, loss, gradients, clipping, update, average
MAX_LAUNCHES = 590  # 575, and 771 when autocast cast each weight; at most 200 augment the batch
CIFAR10 = {"img_size": 32, "patch_size": 4, "embed_dim": 192, "depth": 12, "num_heads": 3}
CIFAR10 |= {"patch_embed": "linear", "global_pool": "avg", "drop_path_rate": 0.1, "num_classes": 10}
VARIANTS: dict[str, dict[str, Any]] = {
    "linear": {"patch_embed": "linear", "drop_path_rate": 0.5},
    "conv_stem": {"patch_embed": "conv_stem", "global_pool": "seq"},
    "shifted": {"patch_embed": "shifted", "attention": "lsa", "init_values": 0.1},
    "gpsa": {"attention": "gpsa", "gpsa_blocks": 1, "qkv_bias": False, "pos_embed": "rope"},
}


class Launches(TorchDispatchMode):
    """Counts operations, but for views and for what only makes memory."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in NO_KERNEL:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_numbers_are_those_of_autocast_to_the_bit(name: str, frozen: bool) -> None:
    model = ViT(
        img_size=8,
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=5,
        **VARIANTS[name],
    ).train()
    torch.nn.init.normal_(model.head.weight)  # type: ignore[arg-type]
    model.blocks[0].requires_grad_(not frozen)
    images, found = torch.randn(3, 3, 8, 8), []
    for cast in (False, True):
        model.zero_grad()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            if cast:
                logits = forward_with_cast_weights(model, images, torch.bfloat16)
            else:
                logits = model(images)
        logits.float().square().sum().backward()
        found.append([logits, *(w.grad for w in model.parameters() if w.grad is not None)])
    assert len(found[0]) == len(found[1]) > 5
    assert all(map(torch.equal, *found))


def test_frozen_weights_that_are_cast_take_no_gradients() -> None:
    model = ViT(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=5)
    add_adapters(model, 2, 2)
    cast = cast_together(weights_to_cast(model), torch.bfloat16)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name, weight in cast.items() if weight.requires_grad} == trained
    assert len(trained) == 2 * 4 + 2
    assert {weight.dtype for weight in cast.values()} == {torch.bfloat16}


@pytest.mark.parametrize("alone", [True, False])
def test_one_process_on_a_gpu_casts_together(alone: bool) -> None:
    model = Classifier(
        img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=5
    ).train()
    model._is_alone = alone
    with fake_device() as gpu:
        model.to(DEVICE)
        images = torch.zeros(3, 3, 8, 8, device=DEVICE)
        gpu.forget()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            model(images)
    # 10 layers have a weight and a bias
    assert (gpu.launches["_to_copy"] < 20) is alone


def test_a_step_of_the_cifar10_recipe_has_few_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "prefers_matmul", lambda *_: False)  # as on a GPU
    model = ViT(**CIFAR10).train()  # type: ignore[arg-type]
    averages = [weight.detach().clone() for weight in model.parameters()]
    groups = parameter_groups(model, weight_decay=0.05, decay="matrices")
    optimizer = torch.optim.AdamW(groups, fused=True)
    patches, targets = torch.randn(2, 64, 48), torch.full((2, 10), 0.1)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward_with_cast_weights(model, patches, torch.bfloat16)
            loss = cross_entropy(logits, targets, smoothing=0.1)
        loss.backward()
        non_finite([loss, *(w.grad for w in model.parameters() if w.grad is not None)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averages, list(model.parameters()), 0.1)
        return loss

    step()  # the first one makes the optimiser's state
    with Launches() as launches:
        step()
    assert launches.count.total() <= MAX_LAUNCHES, launches.count.most_common()


@pytest.mark.parametrize(("is_cuda", "casts"), [(True, True), (True, False), (False, True)])
def test_launches_are_saved_in_mixed_precision_on_a_gpu_alone(
    is_cuda: bool, casts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.is_autocast_enabled", lambda kind: casts and kind == "cuda")
    batch: Any = SimpleNamespace(is_cuda=is_cuda)
    assert saves_launches(batch) is (is_cuda and casts)


@pytest.mark.slow
@pytest.mark.filterwarnings(f"ignore:{NOT_A_LEAF}")
def test_a_compiled_model_is_one_graph_whose_weights_are_cast_before_it() -> None:
    torch.compiler.reset()
    counters.clear()
    graphs: list[GraphModule] = []

    def keep(graph: GraphModule, inputs: list[Tensor]) -> GraphModule:
        graphs.append(graph)
        return graph

    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model = ViT(**size, num_classes=5).train()  # type: ignore[arg-type]
    plain = copy.deepcopy(model)
    torch.nn.init.normal_(model.head.weight)  # type: ignore[arg-type]
    plain.load_state_dict(model.state_dict())
    model.compile(backend=keep)
    images, found = torch.randn(3, 3, 8, 8), []
    for vit in (plain, model):
        optimizer = torch.optim.SGD(vit.parameters(), lr=0.1)
        for _ in range(3):  # later steps, with weights that changed, compile nothing again
            with torch.autocast("cpu", torch.bfloat16):
                logits = forward_with_cast_weights(vit, images, torch.bfloat16)
            logits.float().square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(list(vit.parameters()))
    assert len(graphs) == 1
    assert not counters["graph_break"]
    assert all(map(torch.equal, *found))
