"""Time one training step of vitlit's ViT against other libraries' with the same weights.

A step is zero_grad, forward, cross entropy, backward and fused AdamW: images (B, C, H, W) and
labels (B) -> seconds. bf16 is autocast; on a CPU without units for bfloat16 it is ten times slower
for everybody, and left out unless asked for. "share of peak" is the step's arithmetic, counted by
torch, over what a large matrix product of the same type reaches just before or after.

    pip install -e '.[bench]'
    python benchmarks/train_step.py --quick      # under a minute, too short to keep
    python benchmarks/train_step.py --write      # replaces its device's part of train_step.md
"""

import argparse
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import measure
import torch
import torch.nn.functional as F
from measure import Cell
from peers import BUILDERS, SHAPES, Shape, build_all, is_installed
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils.flop_counter import FlopCounterMode

from vitlit.model.attention import has_bf16_units

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCH = {"cpu": (32, 32, 4), "cuda": (512, 512, 256)}  # of the three shapes
KINDS = {  # of operations, by names of torch's; the first that fits
    "matrix products": "linear|addmm|aten::mm|bmm|convolution",
    "softmax": "softmax",
    "GELU": "gelu",
    "LayerNorm": "layer_norm",
    "copies and casts": "copy_|_to_copy|cat|clone|stack",
    "optimiser": "adamw",
    "sums and products": "add|mul|sum|div|sub|fill|zero",
}
NOTE = """AdamW is fused for all. timm, transformers and torchvision hold vitlit's weights and give
its logits; vit_pytorch computes another function of as much arithmetic.
"""


def random_batch(shape: Shape, size: int, device: str) -> tuple[Tensor, Tensor]:
    """Images ``(B, 3, H, W)`` and labels ``(B)``."""
    images = torch.randn(size, 3, shape["img_size"], shape["img_size"], device=device)
    return images, torch.randint(shape["num_classes"], (size,), device=device)


def training_step(
    model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype
) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    is_low = dtype is not torch.float32

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype) if is_low else nullcontext():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def matmul_peak(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a large square matrix product."""
    side = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = measure.take_turns({"": lambda: a @ b}, rounds=5, warmup=2, device=device)[""]
    return 2 * side**3 / min(seconds)


def flops_of(step: Callable[[], None]) -> int:
    """Floating-point operations of a step: matrix products and attention, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def memory_of(step: Callable[[], None], model: nn.Module, device: str) -> str:
    """Most memory during a step, as if this model were alone on the device."""
    if device != "cuda":
        return "-"
    before = torch.cuda.memory_allocated()  # everybody's weights, gradients and moments
    torch.cuda.reset_peak_memory_stats()
    step()
    own = 4 * sum(p.nbytes for p in model.parameters())  # weights, gradients, AdamW's two moments
    return f"{(torch.cuda.max_memory_allocated() - before + own) / 2**30:.2f}"


def first_step(step: Callable[[], None], name: str, device: str) -> str | None:
    """Seconds of the step that compiles; None where it does not compile, which is printed."""
    start = time.perf_counter()
    try:
        step()
    except TorchDynamoException as error:
        print(f"{name}: left out, since it failed: {str(error)[:300]}", file=sys.stderr)
        return None
    measure.wait(device)
    return f"{time.perf_counter() - start:.0f}"


def measure_cell(shape_name: str, dtype: str, args: argparse.Namespace) -> Cell:
    shape, device = SHAPES[shape_name], args.device
    size = args.batch or BATCH[device][list(SHAPES).index(shape_name)]
    size = 4 if args.quick and device == "cpu" else size
    images, labels = random_batch(shape, size, device)
    torch.compiler.reset()  # or a model of a second shape is compiled for shapes that vary
    peak = matmul_peak(DTYPES[dtype], device)
    models = build_all(shape, device, args.peers)
    steps = {
        peer: training_step(model, images, labels, DTYPES[dtype]) for peer, model in models.items()
    }
    flops = flops_of(steps["vitlit"])
    first: dict[str, str] = {}
    if args.compile:
        for peer, model in build_all(shape, device, args.peers).items():
            name = f"{peer} compiled"
            model.compile()
            step = training_step(model, images, labels, DTYPES[dtype])
            if took := first_step(step, name, device):
                models[name], steps[name], first[name] = model, step, took
    seconds = measure.take_turns(steps, rounds=args.rounds, warmup=args.warmup, device=device)
    peak = max(peak, matmul_peak(DTYPES[dtype], device))
    cell = Cell(f"{shape_name}, {dtype}, batch {size}", seconds, "timm", size)
    rate = {peer: flops / sorted(own)[len(own) // 2] for peer, own in seconds.items()}
    cell.extra["share of peak"] = {peer: f"{rate[peer] / peak:.2f}" for peer in steps}
    memory = {peer: memory_of(steps[peer], models[peer], device) for peer in steps}
    cell.extra["peak GiB"] = memory
    if first:
        cell.extra["first step, s"] = first
    return cell


def shares(step: Callable[[], None]) -> dict[str, float]:
    """The share of each kind of operation in the time of a step on the CPU."""
    for _ in range(2):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(4):
            step()
    spent = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in found.key_averages():
        kinds = (kind for kind, pattern in KINDS.items() if re.search(pattern, event.key))
        spent[next(kinds, "other")] += event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: time / total for kind, time in spent.items()}


def profile(args: argparse.Namespace) -> None:
    """Print where a step of vitlit spends its time."""
    for name, dtype in ((name, dtype) for name in args.shape for dtype in args.dtype):
        shape, size = SHAPES[name], args.batch or BATCH["cpu"][list(SHAPES).index(name)]
        model = build_all(shape, "cpu", ["vitlit"])["vitlit"]
        step = training_step(model, *random_batch(shape, size, "cpu"), DTYPES[dtype])
        found = sorted(shares(step).items(), key=lambda item: -item[1])
        print(f"{name}, {dtype}:", ", ".join(f"{kind} {share:.0%}" for kind, share in found))


def main() -> None:
    parser = measure.parser(__doc__, rounds=9, warmup=2)
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=None)
    parser.add_argument("--peers", choices=BUILDERS, nargs="+", default=list(BUILDERS))
    parser.add_argument("--profile", action="store_true", help="print where time goes, by kind")
    parser.add_argument("--batch", type=int, help="images per step; 32, 32, 4, or 512, 512, 256")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="too; on on CUDA")
    args = parser.parse_args()
    measure.check(args, parser)
    if args.batch is not None and args.batch < 1:
        parser.error(f"--batch {args.batch} is not positive")
    args.peers = list(dict.fromkeys(["vitlit", "timm", *args.peers]))  # to which all are compared
    if args.dtype is None:
        args.dtype = list(DTYPES) if has_bf16_units(args.device) else ["fp32"]
    if args.compile is None:
        args.compile = args.device == "cuda" and not args.quick
    if args.quick:
        args.rounds, args.warmup, args.shape = 3, 1, args.shape[:1]
    if args.profile:
        profile(args)
        return
    if not is_installed("timm"):
        parser.error("timm is not installed, to which all are compared; pip install timm")
    missing = [name for name in args.peers if not is_installed(name)]
    notes = NOTE + (f"Not installed: {', '.join(missing)}.\n" if missing else "")
    cells = (measure_cell(name, dtype, args) for name in args.shape for dtype in args.dtype)
    measure.report(args, __file__, cells, notes)


if __name__ == "__main__":
    main()
