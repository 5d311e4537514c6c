"""The fake device fails where a GPU would, and counts what a GPU's host would wait for."""

from collections.abc import Callable, Iterator

import fake_backward
import pytest
import torch
import torch.nn.functional as F
from fake_device import DEVICE, FakeDevice, fake_device
from torch import Tensor

from vitlit.model.vit import ViT


@pytest.fixture
def gpu() -> Iterator[FakeDevice]:
    with fake_device() as gpu:
        yield gpu


def on_gpu(*shape: int) -> Tensor:
    return torch.zeros(shape, device=DEVICE)


def test_a_graph_is_run_as_torchs_engine_does_to_the_bit() -> None:
    model = ViT(img_size=8, patch_size=4, num_classes=5, embed_dim=8, depth=2, num_heads=2)
    torch.nn.init.normal_(model.head.weight)
    logits = model(torch.randn(4, 3, 8, 8))
    loss = F.cross_entropy(logits, torch.arange(4)) + logits.square().mean()
    weights = list(model.parameters())
    expected = torch.autograd.grad(loss, [*weights, logits], retain_graph=True)
    found = fake_backward.grad(loss, [*weights, logits])
    fake_backward.backward(loss)
    assert all(map(torch.equal, found, expected))
    assert all(torch.equal(w.grad, e) for w, e in zip(weights, expected, strict=False))  # type: ignore[arg-type]


@pytest.mark.parametrize("autocast", [False, True])
def test_a_backward_pass_fills_the_gradients_on_the_device(gpu: FakeDevice, autocast: bool) -> None:
    layer = torch.nn.Linear(3, 2).to(DEVICE)
    gpu.forget()
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
        out = layer(on_gpu(4, 3))
    assert out.dtype == (torch.bfloat16 if autocast else torch.float32)
    out.float().sum().backward()
    assert layer.weight.grad is not None
    assert (layer.weight.grad.device, layer.weight.grad.dtype) == (DEVICE, torch.float32)
    assert gpu.waits == []


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(1, 3)]),
        lambda x: torch.nn.Linear(3, 2)(x),
        lambda x: torch.ones(4, 3).add_(x),
    ],
)
def test_mixed_devices_fail(gpu: FakeDevice, mix: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="device"):
        mix(on_gpu(4, 3))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.cpu(),
        lambda x: x.to("cpu", non_blocking=True),  # pageable: complete when the call returns
        lambda x: torch.zeros(4, 3).copy_(x, non_blocking=True),
        lambda x: torch.zeros(4, 3).to(DEVICE),
        lambda x: x.copy_(torch.ones(4, 3)),
        lambda x: torch.tensor([1.0], device=DEVICE),
        lambda x: x[torch.tensor([0, 1])],
    ],
)
def test_a_wait_is_counted(gpu: FakeDevice, wait: Callable[[Tensor], object]) -> None:
    x = on_gpu(4, 3)
    assert gpu.waits == []
    wait(x)
    assert len(gpu.waits) == 1
    assert "test_fake_device.py" in gpu.waits[0]


@pytest.mark.parametrize(
    "go_on",
    [
        lambda x: x + torch.ones(()),
        lambda x: torch.zeros(4, 3).to(DEVICE, non_blocking=True),
        lambda x: x.copy_(torch.ones(4, 3), non_blocking=True),
        lambda x: torch.empty(4, 3, pin_memory=True).copy_(x, non_blocking=True),
        lambda x: x[torch.tensor([0, 1]).to(DEVICE, non_blocking=True)],
        lambda x: x.new_full((), 3.0),
        lambda x: x.double(),
    ],
)
def test_what_is_queued_is_no_wait(gpu: FakeDevice, go_on: Callable[[Tensor], object]) -> None:
    go_on(on_gpu(4, 3))
    assert gpu.waits == []


@pytest.mark.parametrize("sized", [lambda x: x[x > 0], lambda x: x.nonzero()])
def test_a_size_that_depends_on_values_fails(
    gpu: FakeDevice, sized: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises(RuntimeError, match="nonzero"):
        sized(on_gpu(4, 3))


def test_launches_are_counted_without_views_and_memory(gpu: FakeDevice) -> None:
    x = torch.empty(4, 3, device=DEVICE)
    (x.view(3, 4).T.add_(1) * 2).sum()
    assert gpu.launches == {"add_": 1, "mul": 1, "sum": 1}


def test_tensors_on_the_cpu_keep_their_numbers(gpu: FakeDevice) -> None:
    assert (torch.arange(4) * 2).tolist() == [0, 2, 4, 6]
    flag = torch.empty((), pin_memory=True).copy_(on_gpu(), non_blocking=True)
    gpu.answers = lambda tensor: 7.0
    assert flag.item() == 0.0
    assert on_gpu().item() == 7.0
