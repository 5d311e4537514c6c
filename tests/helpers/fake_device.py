"""A GPU that is not there: tensors on ``cuda`` without numbers, and a count of what is waited for.

tests -> what a training does on ``cuda:0`` -> device mismatches, waits of the host, launches

Tensors on the CPU are real; those on ``cuda`` have a shape, a type and a device (torch's
FakeTensorMode, which fails like a GPU where devices mix). Scalars that are read from the device are
invented: see :attr:`FakeDevice.answers`. What depends on the values in a shape, such as indexing by
a mask, raises an error.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from fake_backward import backward, grad
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

DEVICE = torch.device("cuda:0")
aten = torch.ops.aten
LOAD = torch.load
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
# They make or rename memory, and start no kernel; views are told by the operator itself.
NO_KERNEL = {"detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "set_"}
NO_KERNEL |= {"_record_function_enter_new", "_record_function_exit"}  # marks for a profiler
NO_KERNEL |= {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
MOVES = {aten._to_copy.default, aten.copy_.default}


class FakeDevice(TorchDispatchMode):
    """What the host asked of the device so far.

    waits: operations for which the host waited, each with the line that asked for it; launches: how
    often each kernel was started, copies left out; copies: those between host and device;
    answers: the scalar that is read next from such a tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.launches: Counter[str] = Counter()
        self.copies = 0
        self.answers: Callable[[Tensor], Any] = _likely
        self._pinned: Any = WeakIdKeyDictionary()

    def forget(self) -> None:
        """Count from here on."""
        self.waits, self.launches, self.copies = [], Counter(), 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func.namespace == "aten" and func.has_kernel_for_dispatch_key(
            COMPOSITE
        ):  # not taken apart in inference mode
            with self:
                return func.decompose(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_pinned = kwargs.pop("pin_memory", False)
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return self._read(args[0])
        if func is aten.is_pinned.default:
            return args[0] in self._pinned
        if func is aten.copy_.default and _is_real(args[:1]) and not _is_real(args[1:2]):
            # FakeTensorMode would copy into another tensor, and leave this one without a value.
            self._watch_copy("copy_", func, args, kwargs, args[0])
            with unset_fake_temporarily():
                return args[0].fill_(self.answers(args[1]))
        where = kwargs.get("device")
        if _is_real(inputs) and (where is None or torch.device(where).type == "cpu"):
            with unset_fake_temporarily():
                found = func(*args, **kwargs)
        else:
            found = func(*args, **kwargs)
            self._watch(func, args, kwargs, found)
        if is_pinned:
            self._pinned[found] = True
        return found

    def _read(self, tensor: Tensor) -> Any:
        if tensor.is_cuda:
            self._wait("_local_scalar_dense")
        return self.answers(tensor)

    def _watch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any) -> None:
        name = func.overloadpacket.__name__
        if func in MOVES:
            self._watch_copy(name, func, args, kwargs, found)
        elif (
            name in INDEXING
            and args[0].is_cuda
            and not all(i is None or i.is_cuda for i in args[1])
        ):
            self._wait(f"{name} by a tensor on the CPU")
        if func in MOVES or func.is_view or name in NO_KERNEL or func.namespace == "prim":
            return
        outputs = [leaf for leaf in tree_leaves((found, args[:1])) if isinstance(leaf, Tensor)]
        if any(tensor.is_cuda for tensor in outputs):
            self.launches[name] += 1

    def _watch_copy(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any
    ) -> None:
        source = args[1] if func is aten.copy_.default else args[0]
        if source.device.type == found.device.type:
            if found.is_cuda:
                self.launches[name] += 1
            return
        self.copies += 1
        late = args[2:] if func is aten.copy_.default else args[1:]
        blocks = not (kwargs.get("non_blocking") or any(late))
        # A copy to memory that is not pinned is complete when the call returns, asked or not. One
        # from such memory is staged: the host goes on (for what is small; loaders pin the batches).
        if blocks or (source.is_cuda and found not in self._pinned):
            self._wait(f"{name} {source.device.type} to {found.device.type}")

    def _wait(self, what: str) -> None:
        self.waits.append(f"{what}, {_caller()}")


def _is_real(tensors: Sequence[Tensor]) -> bool:
    return not any(isinstance(tensor, FakeTensor) for tensor in tensors)


def _likely(tensor: Tensor) -> Any:
    """What code goes on with: flags of errors and questions for them are 0, counts are 1."""
    if tensor.dtype == torch.bool:
        return False
    return 0.0 if tensor.is_floating_point() else 1


def _caller() -> str:
    """The innermost lines outside torch that run."""
    frame, found = sys._getframe(1), []
    while frame is not None and len(found) < 3:
        path = frame.f_code.co_filename
        if "/torch/" not in path and path != __file__:
            found.append(f"{'/'.join(path.split('/')[-2:])}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found)


@contextmanager
def fake_device() -> Iterator[FakeDevice]:
    """Within it ``cuda:0`` exists, though ``torch.cuda.is_available()`` stays false.

    Make modules outside or inside, and move them with ``.to(DEVICE)`` inside.
    """
    watch = FakeDevice()
    changes = {
        "torch.Tensor.backward": backward,
        "torch.autograd.backward": backward,
        "torch.autograd.grad": grad,
        "torch.load": _load_real,
        "torch.cuda.Event": FakeEvent,
        "torch.cuda.manual_seed": lambda seed: None,  # would be queued, with a stack trace
        "torch.cuda.get_device_capability": lambda *_: (9, 0),
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
    }
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # FakeTensorMode looks for gradients in every real tensor that it meets.
        warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not")
        for name, value in changes.items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(watch)


def _load_real(*args: Any, **kwargs: Any) -> Any:
    """Stands for ``torch.load``: what comes from a file has numbers."""
    with _disable_current_modes():
        return LOAD(*args, **kwargs)


class FakeEvent:
    """An event that has always happened: the code waits for those of earlier steps alone."""

    def record(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class FakeAccelerator(CPUAccelerator):
    """Lightning's accelerator for a device that needs no set-up."""

    def setup_device(self, device: torch.device) -> None: ...


class FakeStrategy(SingleDeviceStrategy):
    """A training on the fake device; fakes cannot be moved twice, so the model stays there."""

    def model_to_device(self) -> None:
        if self.model is not None and any(not p.is_cuda for p in self.model.parameters()):
            super().model_to_device()

    def teardown(self) -> None: ...


def fake_trainer(**settings: Any) -> pl.Trainer:
    """A quiet trainer on the fake device."""
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    strategy = FakeStrategy(DEVICE, accelerator=FakeAccelerator())
    return pl.Trainer(strategy=strategy, **{**quiet, **settings})
