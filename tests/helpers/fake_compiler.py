"""The kernels that Inductor would make for a GPU, without one: its code for tensors on ``cuda``.

a function compiled with ``backend`` -> calls of kernels in the code of its graphs

Inductor writes the code for a GPU of compute capability 9.0, and nothing runs: in its place the
graph itself computes the shapes of the results. Use it within ``fake_gpu()``. Counted are the
starts of Triton kernels, the sums of what they leave in a workspace, and the calls of libraries
(products, attention), each of which is one kernel or, for the backward pass of attention, a few.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from fake_backward import backward, grad
from torch._guards import detect_fake_mode
from torch._inductor import compile_fx
from torch._inductor.debug import DebugContext
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule

from vitlit.training.compiling import NOT_A_LEAF

H100 = SimpleNamespace(
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    warp_size=32,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
    L2_cache_size=50 << 20,
)
KERNELS = r"extern_kernels\.\w+|torch\.ops\.[\w.]+|\w+\.run|workspace_\d+\b.*?\.(?:sum|zero_)"
CALL = re.compile(rf"^\s+(?:\w+ = )?({KERNELS})\(", re.M)
INTERFACE = "torch._dynamo.device_interface.CudaInterface."
KNOWN: dict[str, Any] = {
    f"{INTERFACE}get_device_properties": lambda *_: H100,
    f"{INTERFACE}Worker.get_device_properties": lambda *_: H100,
    f"{INTERFACE}current_device": lambda *_: 0,
    f"{INTERFACE}Worker.current_device": lambda *_: 0,
    f"{INTERFACE}device_count": lambda *_: 1,
    "torch.cuda.get_device_properties": lambda *_: H100,
    "torch.cuda.get_device_capability": lambda *_: (9, 0),
    "torch.cuda.current_device": lambda: 0,
    "torch.cuda.is_available": lambda: True,
    "torch.cuda.device_count": lambda: 1,
    "torch._inductor.scheduler.has_triton": lambda *_: True,
}


@contextmanager
def fake_gpu() -> Iterator[None]:
    """``cuda:0`` for a compiler: ``fake_device()`` without its counts, whose mode stops Dynamo."""
    changes: dict[str, Any] = {
        "torch.Tensor.backward": backward,
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
    }
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=NOT_A_LEAF)
        for name, value in changes.items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


@contextmanager
def known_gpu() -> Iterator[None]:
    """Within it Inductor and Triton find an H100 when they ask for the properties of the GPU."""
    import triton
    from triton.backends.compiler import GPUTarget

    target = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0
    )
    with ExitStack() as stack:
        for name, value in KNOWN.items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(mock.patch.object(triton.runtime.driver, "_active", target))
        yield


class FakeCompiler:
    """Stands for Inductor: ``torch.compile(..., backend=compiler)``.

    options: those of Inductor; calls: names of the kernels that the code of each graph starts.
    """

    def __init__(self, **options: Any) -> None:
        # Folding constants would compute on the device; nothing is built, so by no process.
        own = {"joint_graph_constant_folding": False, "compile_threads": 1}
        self.options = {**options, **own}
        self.calls: list[list[str]] = []

    def __call__(self, graph: GraphModule, inputs: Any) -> Any:
        # the compiler differentiates the graph, for which torch's engine needs the device
        with mock.patch("torch.autograd.grad", grad):
            return compile_fx.compile_fx(
                graph, inputs, inner_compile=self._keep_code, config_patches=self.options
            )

    def _keep_code(self, graph: GraphModule, inputs: Any, **told: Any) -> Callable[..., Any]:
        mode = detect_fake_mode(inputs)
        kind = {name: told.get(name, False) for name in ("is_inference", "is_backward")}
        with V.set_fake_mode(mode), DebugContext(), known_gpu():
            compile_fx._recursive_record_original_output_strides(graph)
            compile_fx._recursive_post_grad_passes(graph, is_inference=kind["is_inference"])
            lowering = GraphLowering(graph, example_inputs=inputs, shape_env=mode.shape_env, **kind)
            with V.set_graph_handler(lowering):
                lowering.run(*inputs)
                code = lowering.codegen()[0].value
        self.calls.append(CALL.findall(code))

        def compute_shapes(values: list[Any]) -> Any:
            return graph(*values)

        compute_shapes._boxed_call = True  # type: ignore[attr-defined]
        return compute_shapes
