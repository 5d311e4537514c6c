"""Casting all weights together: autocast's numbers to the bit, and how many launches a step has."""

import copy
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_compiler import FakeCompiler, fake_gpu
from fake_device import DEVICE, NO_KERNEL, fake_device
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode

from vitlit.augment.pipeline import Augmentation
from vitlit.augment.stages import apply_stages
from vitlit.fault_tolerance.lightning_internals import non_finite
from vitlit.images.preprocess import Preprocess
from vitlit.model import attention
from vitlit.model.cast_weights import (
    cast_together,
    forward_with_cast_weights,
    saves_launches,
    weights_to_cast,
)
from vitlit.model.low_rank import add_adapters
from vitlit.model.vit import ViT
from vitlit.seeding import BatchAddress
from vitlit.tasks.loss import cross_entropy
from vitlit.training.classifier import Classifier
from vitlit.training.compiling import GPU_OPTIONS, NOT_A_LEAF
from vitlit.training.optim.groups import parameter_groups

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


class Hollow(torch.autograd.Function):
    """Stands for what is compiled: a result of the shape, and gradients, without a launch."""

    @staticmethod
    def forward(ctx: Any, shape: tuple[int, ...], x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        return torch.empty(shape, dtype=torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return None, None, *map(torch.empty_like, ctx.saved_tensors)


def hollow_loss(logits: Tensor, targets: Tensor, **_: Any) -> Tensor:
    """Stands for the compiled loss: a number and a gradient without a launch."""
    loss: Tensor = Hollow.apply((), targets, logits)
    return loss


def count_launches(
    model: nn.Module, loss_of: Callable[..., Tensor] = cross_entropy
) -> Counter[str]:
    """Those of a training step of this model."""
    averages = [weight.detach().clone() for weight in model.parameters()]
    groups = parameter_groups(model, weight_decay=0.05, decay="matrices")
    optimizer = torch.optim.AdamW(groups, fused=True)
    patches, targets = torch.randn(2, 64, 48), torch.full((2, 10), 0.1)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward_with_cast_weights(model, patches, torch.bfloat16)
            loss = loss_of(logits, targets, smoothing=0.1)
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
    return launches.count


def test_a_step_of_the_cifar10_recipe_has_few_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "prefers_matmul", lambda *_: False)  # as on a GPU
    launches = count_launches(ViT(**CIFAR10).train())  # type: ignore[arg-type]
    assert launches.total() <= MAX_LAUNCHES, launches.most_common()


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


# A compiled step: what Inductor's code for CUDA starts (fake_compiler.py), and around the graphs
# operations as above, casts, loss and update.
# 298 of the model, 14 of the augmentation, 3 of the loss and 22 around them with torch 2.15;
# 341, 13, 3 and 22 with torch 2.11
MAX_COMPILED_LAUNCHES = 400
RECIPE = {"crop_padding": 4, "flip": True, "auto_augment": "randaugment", "erasing": 0.25}
RECIPE |= {"num_classes": 10, "mixup": 0.8, "cutmix": 1.0}


def flash(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """What attention runs on a GPU; the fake one would get products and a softmax."""
    found: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout)[0]
    return found


def calls_of_model() -> int:
    """Kernels of the compiled model, forward and backward."""
    compiler, model = FakeCompiler(**GPU_OPTIONS), ViT(**CIFAR10).train()  # type: ignore[arg-type]
    with fake_gpu():
        model.to(DEVICE).compile(backend=compiler)
        images = torch.zeros(512, 64, 48, device=DEVICE)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = forward_with_cast_weights(model, images, torch.bfloat16)
        logits.float().sum().backward()
    assert len(compiler.calls) == 2
    return sum(map(len, compiler.calls))


def calls_of_augmentation() -> int:
    compiler = FakeCompiler(**GPU_OPTIONS)
    compiled = torch.compile(apply_stages, dynamic=False, backend=compiler)
    at = BatchAddress(torch.arange(512), 0, 0)
    size, augmentation = (32, 32), Augmentation(**RECIPE)  # type: ignore[arg-type]
    shapes = {
        name: part.shape for name, part in augmentation.plan(at, (3, 32, 32), size, "cuda").items()
    }
    with fake_gpu():
        plan = {name: torch.empty(shape, device=DEVICE) for name, shape in shapes.items()}
        x = torch.empty(512, 3, 32, 32, dtype=torch.uint8, device=DEVICE)
        y = torch.empty(512, dtype=torch.long, device=DEVICE)
        normalise = Preprocess(3, size, size, (0.5,) * 3, (0.5,) * 3).on(DEVICE)
        compiled(x, y, plan, size=size, padding=4, num_classes=10, normalise=normalise)
    assert len(compiler.calls) == 1
    return len(compiler.calls[0])


def calls_of_loss() -> int:
    """Kernels of the compiled loss, forward and backward."""
    compiler = FakeCompiler(**GPU_OPTIONS)
    compiled = torch.compile(cross_entropy, dynamic=False, backend=compiler)
    with fake_gpu():
        logits = torch.zeros(512, 10, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        targets = torch.full((512, 10), 0.1, device=DEVICE)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = compiled(logits, targets, smoothing=0.1)
        loss.backward()
    assert len(compiler.calls) == 2
    return sum(map(len, compiler.calls))


class Around(nn.Module):
    """A model whose inside is :class:`Hollow`."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = ViT(**CIFAR10)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = Hollow.apply((len(x), 10), x, *self.parameters())
        return logits


@pytest.mark.slow
def test_a_compiled_step_of_the_cifar10_recipe_has_few_launches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "attend", flash)
    torch.compiler.reset()
    around = count_launches(Around(), hollow_loss).total()
    counts = calls_of_model(), calls_of_augmentation(), calls_of_loss(), around
    assert sum(counts) <= MAX_COMPILED_LAUNCHES, counts
