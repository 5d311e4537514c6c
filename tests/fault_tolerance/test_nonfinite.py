"""Losses and gradients that are not numbers never reach the weights."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from trainings import EPOCHS, RUN, newest_run

from vitlit.__main__ import main
from vitlit.errors import InputError
from vitlit.fault_tolerance.lightning_internals import non_finite, non_finite_by_norm
from vitlit.fault_tolerance.nonfinite import FiniteUpdates
from vitlit.training.classifier import Classifier
from vitlit.training.training_module import spread_non_finite


@pytest.fixture
def bad_steps(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Steps, counted from 0, whose logits are not numbers."""
    bad: set[int] = set()
    logits_of = Classifier.forward

    def forward(self: Classifier, x: torch.Tensor) -> torch.Tensor:
        logits = logits_of(self, x)
        return logits * math.nan if self.training and self.global_step in bad else logits

    monkeypatch.setattr(Classifier, "forward", forward)
    return bad


def fit(folder: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return main([*RUN, EPOCHS, *args])


def weights() -> dict[str, torch.Tensor]:
    return torch.load(newest_run() / "checkpoints" / "last.ckpt")["state_dict"]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_has_no_finite_gradients(value: float) -> None:
    weight = torch.ones((), requires_grad=True)
    spread_non_finite(weight + value).backward()
    assert weight.grad is not None
    assert weight.grad.isnan()


def test_a_finite_loss_keeps_its_gradients_to_the_last_bit() -> None:
    weight = torch.tensor(0.3, requires_grad=True)
    spread_non_finite(weight.sin()).backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.tensor(0.3).cos())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [0.0, 3e38, math.inf, -math.inf, math.nan])
def test_one_number_among_many_is_found(value: float, dtype: torch.dtype) -> None:
    tensors = [torch.full((33, 65), 0.1), torch.randn(7, dtype=dtype), torch.zeros(())]
    tensors[1][5] = value
    before = [tensor.clone() for tensor in tensors]
    assert non_finite(tensors).item() == (0.0 if math.isfinite(value) else 1.0)
    assert all(map(torch.equal, tensors, before)) == (not math.isnan(value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [0.0, 3e38, math.inf, -math.inf, math.nan])
def test_the_check_by_norm_finds_the_same(value: float, dtype: torch.dtype) -> None:
    tensors = [torch.zeros((), dtype=dtype), torch.randn(33, 65).to(dtype)]
    tensors[1][7, 5] = value
    found = non_finite_by_norm(tensors)
    assert found.dtype == torch.float32
    assert found.item() == (0.0 if math.isfinite(value) else 1.0)


class KernelOfCuda(TorchDispatchMode):
    """Refuses what the CUDA kernel refuses, and notes the dtypes that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert "_local_scalar_dense" not in str(func), "this waits for the device"
        if "_amp_foreach_non_finite_check_and_unscale_" in str(func):
            self.dtypes += [tensor.dtype for tensor in args[0]]
            if torch.bfloat16 in self.dtypes:
                raise NotImplementedError("not implemented for 'BFloat16'")
        return func(*args, **(kwargs or {}))


def test_no_dtype_is_given_to_a_cuda_kernel_that_lacks_it() -> None:
    dtypes = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
    with FakeTensorMode(), KernelOfCuda() as kernel:
        flag = non_finite([torch.ones(3, device="cuda", dtype=dtype) for dtype in dtypes])
    assert flag.is_cuda
    assert flag.dtype == torch.float32
    assert kernel.dtypes == dtypes[1:]


def test_a_training_stops_before_the_update_and_says_where(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bad_steps: set[int],
) -> None:
    bad_steps.add(8)
    assert fit(tmp_path, monkeypatch) == 1
    message = capsys.readouterr().err
    assert "step 9 is not finite (learning rate 0.0" in message
    assert "training images" in message
    assert "Traceback" not in message
    saved = torch.load(newest_run() / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == 8
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.parametrize(("head_lr", "name"), [(0.5, "head_lr"), (0.0001, "lr")])
def test_the_rate_that_is_named_is_the_highest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bad_steps: set[int],
    head_lr: float,
    name: str,
) -> None:
    bad_steps.add(3)
    args = ["--model.lr=0.01", f"--model.head_lr={head_lr}", "--model.warmup_fraction=0"]
    assert fit(tmp_path, monkeypatch, *args, "--model.warmup_epochs=0") == 1
    message = " ".join(capsys.readouterr().err.split())
    rate = {"lr": 0.01, "head_lr": head_lr}[name]
    found = re.search(r"learning rate ([\d.e-]+)", message)
    assert found is not None
    assert 0.8 * rate < float(found[1]) <= rate
    assert f"lower {name}, give gradient_clip_val" in message
    assert f"(--model.{name}, --trainer.gradient_clip_val" in message


def test_updates_are_left_out_as_often_as_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad_steps: set[int]
) -> None:
    bad_steps |= {8, 10}
    with pytest.warns(UserWarning, match="skipped update [12] of at most 2"):
        assert fit(tmp_path, monkeypatch, "--nonfinite.skip=2") == 0
    assert all(value.isfinite().all() for value in weights().values())
    steps = {
        int(state["step"])
        for state in torch.load(newest_run() / "checkpoints" / "last.ckpt")["optimizer_states"][0][
            "state"
        ].values()
    }
    assert steps == {16}  # of 18


@pytest.mark.filterwarnings("ignore:.*skipped update")
def test_one_more_stops_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad_steps: set[int]
) -> None:
    bad_steps |= {8, 10, 11}
    assert fit(tmp_path, monkeypatch, "--nonfinite.skip=2") == 1


@pytest.mark.filterwarnings("ignore:.*skipped update")
@pytest.mark.parametrize(("skip", "status"), [(1, 1), (2, 0)])
def test_what_was_skipped_before_a_stop_counts_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad_steps: set[int], skip: int, status: int
) -> None:
    bad_steps |= {3, 8}  # of six steps in each epoch
    allowed = f"--nonfinite.skip={skip}"
    assert fit(tmp_path, monkeypatch, "--trainer.max_epochs=1", allowed) == 0
    again = fit(tmp_path, monkeypatch, "--trainer.max_epochs=2", allowed, "--ckpt_path=last")
    assert again == status


def test_a_negative_number_of_skips_is_refused() -> None:
    with pytest.raises(InputError, match="skip -1 is too small") as caught:
        FiniteUpdates(-1)
    assert caught.value.arguments == ("skip",)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_gpu_leaves_the_update_out_by_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad_steps: set[int],
    precision: str,
    optimizer: str,
) -> None:
    bad_steps.add(8)
    args = ["--trainer.accelerator=gpu", "--trainer.devices=1", f"--trainer.precision={precision}"]
    args += [f"--model.optimizer={optimizer}"]
    assert fit(tmp_path, monkeypatch, *args) == 1
    with pytest.warns(UserWarning, match="skipped update 1"):
        assert fit(tmp_path, monkeypatch, *args, "--nonfinite.skip=1") == 0
    assert all(value.isfinite().all() for value in weights().values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_that_a_scaler_overflows_in_are_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first scale, 65536, is too large for gradients made a thousand times larger."""
    loss_of = Classifier.training_step
    monkeypatch.setattr(
        Classifier, "training_step", lambda self, batch, i: 1e3 * loss_of(self, batch, i)
    )
    args = ["--trainer.accelerator=gpu", "--trainer.devices=1", "--trainer.precision=16-mixed"]
    assert fit(tmp_path, monkeypatch, *args) == 0
