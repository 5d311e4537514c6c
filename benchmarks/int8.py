"""Time a ViT-S/16 in ONNX Runtime in float32 and in 8-bit integers, against PyTorch.

    python benchmarks/int8.py --write    # replaces its device's part of int8.md

Weights are random: only the time counts. Accuracy before and after is printed by every
``vitlit export --format onnx --quantize int8``.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measure
import onnxruntime
import torch
from measure import Cell

from vitlit.deploy.export import export_model
from vitlit.deploy.int8 import INT8_NAME, write_int8
from vitlit.deploy.programs import ONNX_NAME
from vitlit.images.preprocess import Preprocess
from vitlit.model.attention import has_bf16_units
from vitlit.model.vit import ViT

NOTE = """Forward passes of a ViT-S/16 with ten classes. "int8" is what `vitlit export --format onnx
--quantize int8` writes; "onnx" the same program in float32. bf16 is autocast, and is left out on
processors without units for it.
"""


def contestants(folder: Path, batch: int, threads: int) -> dict[str, Callable[[], object]]:
    """Each of them on the same images."""
    model = ViT(embed_dim=384, num_heads=6, num_classes=10).eval()
    preprocess = Preprocess(3, model.img_size, model.img_size, (0.5,) * 3, (0.5,) * 3)
    names = [str(number) for number in range(10)]
    export_model(model, preprocess, names, folder / "export", format="onnx")
    write_int8(folder / "export")
    x = torch.randn(batch, 3, *model.img_size)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads

    def session(name: str) -> Callable[[], object]:
        file = folder / "export" / name
        made: Any = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda: made.run(None, {"images": x.numpy()})

    def in_bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model(x)

    calls = {"onnx": session(ONNX_NAME), "int8": session(INT8_NAME), "PyTorch": lambda: model(x)}
    return calls | ({"PyTorch, bf16": in_bf16} if has_bf16_units("cpu") else {})


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    for batch in (1,) if args.quick else (1, 32):
        with tempfile.TemporaryDirectory() as name, torch.inference_mode():
            calls = contestants(Path(name), batch, args.threads)
            seconds = measure.take_turns(
                calls, rounds=args.rounds, warmup=args.warmup, device="cpu", alone=True
            )
        yield Cell(f"batches of {batch}", seconds, "onnx", batch)


def main() -> None:
    parser = measure.parser(__doc__ or "", rounds=9)
    parser.set_defaults(device="cpu")
    args = parser.parse_args()
    measure.check(args, parser)
    if args.device == "cuda":
        parser.error("this compares programs on a CPU; give --device cpu")
    measure.report(args, __file__, cells(args), NOTE)


if __name__ == "__main__":
    main()
