"""The parts of ``gpu.py``, each a process: ``python gpu_parts.py PART --out FILE``.

name of a part -> figures by name, written to the file after each of them
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measure
import torch
import train_step
from gpu_fits import fit_in, four_epochs, last_of, same, vitlit, weights_of
from gpu_step import DEVICE, ON_GPU, Step
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vitlit.training.compiling import MODES

ROOT = Path(__file__).parents[1]
WAIT = "called a synchronizing CUDA operation"  # torch's warning


class Figures:
    """What a part found; the file is whole after every figure."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, dict[str, Any]()

    def put(self, name: str, value: Any) -> None:
        self.found[name] = value
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.found))
        beside.replace(self.path)


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """The median, after two rounds of warm-up."""
    taken = measure.take_turns({"": call}, rounds=rounds, warmup=2, device=DEVICE)[""]
    return 1e3 * sorted(taken)[len(taken) // 2]


def device(figures: Figures, small: bool) -> None:
    figures.put("name", measure.device_name(DEVICE, 1))
    figures.put("versions", f"Python {sys.version.split()[0]}, {measure.packages()}")
    side = 2**20 if small else 2**30
    if ON_GPU:
        figures.put("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
        free, total = torch.cuda.mem_get_info()
        figures.put("memory, GiB free of all", f"{free / 2**30:.1f} of {total / 2**30:.1f}")
        peak = train_step.matmul_peak(torch.bfloat16, DEVICE)
        figures.put("bf16 product of matrices, TFLOP/s", peak / 1e12)
    source = torch.zeros(side, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    took = milliseconds(lambda: target.copy_(source), 5)
    figures.put("copy, GB/s read and written", 2 * side / took / 1e6)


def tests(figures: Figures, small: bool) -> None:
    found = "--collect-only" if small else "--durations=5"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", found]
    result = subprocess.run(
        [*command, "tests/fault_tolerance", "tests/augment"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    figures.put("failed", [line for line in lines if line.startswith("FAILED")])
    figures.put("result", lines[-1] if lines else result.stderr[-500:])
    figures.put("passed", result.returncode == 0)


@contextmanager
def counted_waits(figures: Figures, name: str) -> Iterator[None]:
    """Count the places at which the host waits for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if ON_GPU:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            if ON_GPU:
                torch.cuda.set_sync_debug_mode("default")
    # the first call of set_sync_debug_mode warns too: that the mode is a prototype
    waits = [one for one in caught if WAIT in str(one.message)]
    texts = [f"{Path(one.filename).name}:{one.lineno}" for one in waits]
    figures.put(f"{name}: waits for the device", len(texts) if ON_GPU else None)
    figures.put(f"{name}: where", sorted(set(texts)))


def step(figures: Figures, small: bool) -> None:
    own, rounds = Step(small), 2 if small else 20
    figures.put("images", own.size)
    figures.put("augmentation, ms", milliseconds(own.augment, rounds))
    with torch.no_grad():
        figures.put("forward, ms", milliseconds(own.loss, rounds))
    figures.put("forward and backward, ms", milliseconds(own.backward, rounds))
    figures.put("optimiser, ms", milliseconds(own.optimizer.step, rounds))
    averages(figures, own, rounds)
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    took = milliseconds(own.whole, rounds)
    figures.put("whole step, ms", took)
    figures.put("images/s", 1e3 * own.size / took)
    peak = torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else None
    figures.put("peak memory, GiB", peak)
    with counted_waits(figures, "whole step"):
        own.whole()
    profiled(figures, own)


def averages(figures: Figures, own: Step, rounds: int) -> None:
    """The moving average: torch's, whose count is on the CPU, and one operation over lists."""
    model = AveragedModel(own.vit, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    model.n_averaged = model.n_averaged.cpu()
    figures.put("AveragedModel, ms", milliseconds(lambda: model.update_parameters(own.vit), rounds))
    weights = [value.detach() for value in own.vit.parameters()]
    kept = [value.clone() for value in weights]
    lerp = torch._foreach_lerp_
    figures.put("one _foreach_lerp_, ms", milliseconds(lambda: lerp(kept, weights, 0.001), rounds))


def profiled(figures: Figures, own: Step) -> None:
    """Launches of a step, and its ten costliest operators."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if ON_GPU else [])
    with profile(activities=kinds) as found:
        own.whole()
        measure.wait(DEVICE)
    rows = found.key_averages()
    launches = sum(row.count for row in rows if "LaunchKernel" in row.key)
    figures.put("kernel launches", launches if ON_GPU else None)

    def cost(row: Any) -> float:
        return float(row.self_device_time_total if ON_GPU else row.self_cpu_time_total)

    top = sorted(rows, key=cost, reverse=True)[:10]
    figures.put(
        "profile", [f"{cost(row) / 1e3:.2f} ms, {row.count}x {row.key[:70]}" for row in top]
    )


def compiled(figures: Figures, small: bool) -> None:
    for name in MODES:
        torch.compiler.reset()
        own = Step(small)
        own.compile(name)
        start = time.perf_counter()
        own.backward()
        measure.wait(DEVICE)
        figures.put(f"{name}: first step, s", time.perf_counter() - start)
        took = milliseconds(own.backward, 2 if small else 20)
        figures.put(f"{name}: forward and backward, ms", took)
        figures.put(f"{name}: images/s of these", 1e3 * own.size / took)


def peers(figures: Figures, small: bool) -> None:
    # one shape of those in train_step.md, for time; timm is the reference there too
    shape = ["--shape", "32px/4 192x12 h3", "--dtype", "fp32" if small else "bf16"]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "step.json"
        command = [sys.executable, str(Path(__file__).parent / "train_step.py"), *shape]
        command += ["--rounds", "3", "--warmup", "1", "--no-compile", "--json", str(file)]
        command += ["--batch", "2"] if small else ["--batch", "512"]
        subprocess.run(command, check=True)
        for record in json.loads(file.read_text()):
            figures.put(f"{record['name']}, images/s", record["value"])
            figures.put(f"{record['name']}, times {record['ratio_to']}", record["ratio"])


def fits(figures: Figures, small: bool) -> None:
    for name, seconds, images in four_epochs(small):
        figures.put(f"{name}: seconds of each epoch", [round(one, 3) for one in seconds])
        figures.put(f"{name}: images/s of the last", images / seconds[-1])


def resume(figures: Figures, small: bool) -> None:
    with TemporaryDirectory() as name:
        first, second, third = (Path(name) / word for word in ("first", "second", "third"))
        for folder in (first, second):
            figures.put(f"fit, {folder.name}: status", fit_in(folder, small).wait())
        figures.put(
            "two fits end with the same bits",
            same(weights_of(first), weights_of(second)),
        )
        process = fit_in(third, small)
        while process.poll() is None and not last_of(third).exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        figures.put("SIGTERM: status, 143 expected", process.wait())
        kept = torch.load(last_of(third), map_location="cpu", weights_only=True)
        figures.put("SIGTERM: stopped after step", kept["global_step"])
        figures.put("resumed: status", fit_in(third, small).wait())
        figures.put(
            "resumed: the same bits",
            same(weights_of(first), weights_of(third)),
        )


def commands(figures: Figures, small: bool) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        figures.put("fit: status", fit_in(folder, small).wait())
        for words in (["test"], ["explain"], ["export"]):
            start = time.perf_counter()
            status = vitlit(folder, *words, "--ckpt_path", str(last_of(folder))).wait()
            figures.put(f"{words[0]}: status", status)
            figures.put(f"{words[0]}: s", time.perf_counter() - start)


PARTS: dict[str, Callable[[Figures, bool], None]] = {
    part.__name__: part for part in (device, step, compiled, tests, fits, resume, peers, commands)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    PARTS[args.part](Figures(args.out), args.small)


if __name__ == "__main__":
    main()
