"""Time `vitlit predict` of photographs with a ViT-S/16, against scripts with timm and transformers.

Each contestant is a process that reads the same JPEG files and writes the class of each. Its
processor time is taken as the system counts it, over all of its threads and processes: once with
all photographs ("whole") and once with a few, so that the difference, by the number of photographs
between, is the speed without the start ("steady").

    python benchmarks/predict.py --quick    # a few minutes, too short to keep
    python benchmarks/predict.py --write    # replaces the tables in predict.md
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import measure
import photos
import torch
from measure import Cell, Seconds

from vitlit.model.attention import has_bf16_units

BATCH = 64
CLASSES = 2
ON_CPU = "--trainer.accelerator=cpu"  # as the scripts, on a machine with a GPU too
NAMES = ["timm fp32", "timm bf16", "vitlit", "transformers fp32", "vitlit fp32"]
GIVING_BACK = "vitlit, memory given back"  # as glibc does without our settings; only on request
NOTE = """Photographs per second of processor time (user and system, all processes of a contestant,
one thread each). "whole" has the start of Python and the imports in it, "steady" leaves them out.
The photographs are those of photos.py. The checkpoint of vitlit is of a training on this machine,
so "vitlit" computes in bf16-mixed if the processor has units for it. The scripts are the shortest
that do the same: a DataLoader without worker processes, torch.inference_mode, and torch.autocast
for bf16. All work on batches of 64. "memory given back" is vitlit without its settings of glibc.
"""


# -- contestants: each runs in a process of its own -------------------------------------------


def by_vitlit(folder: Path, checkpoint: str, precision: str | None) -> None:
    from vitlit.__main__ import main

    words = ["predict", "--ckpt_path", checkpoint, "--data.images", str(folder)]
    words += ["--data.batch_size", str(BATCH), ON_CPU]
    words += ["--trainer.precision", precision] if precision else []
    if main([*words, "--out", "classes.csv"]):
        raise RuntimeError("vitlit predict failed")


def by_timm(files: list[str], dtype: torch.dtype | None) -> None:
    import timm
    from PIL import Image
    from torch.utils.data import DataLoader

    model = timm.create_model("vit_small_patch16_224", num_classes=CLASSES).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    class Files(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> torch.Tensor:
            return transform(Image.open(files[index]).convert("RGB"))

    loader = DataLoader(Files(), batch_size=BATCH)
    write_classes(files, (predicted(model, x, dtype) for x in loader))


def predicted(model: Callable[..., Any], x: torch.Tensor, dtype: torch.dtype | None) -> list[int]:
    cast = torch.autocast("cpu", dtype) if dtype else nullcontext()
    with torch.inference_mode(), cast:
        logits = model(x)
    return getattr(logits, "logits", logits).softmax(-1).argmax(-1).tolist()


def by_transformers(files: list[str]) -> None:
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    shape = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
    config = ViTConfig(**shape, intermediate_size=1536, num_labels=CLASSES)
    model, processor = ViTForImageClassification(config).eval(), ViTImageProcessor()

    def batches() -> Iterator[list[int]]:
        for start in range(0, len(files), BATCH):
            images = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
            x = processor(images, return_tensors="pt")["pixel_values"]
            yield predicted(model, x, None)

    write_classes(files, batches())


def write_classes(files: list[str], batches: Iterator[list[int]]) -> None:
    classes = [label for batch in batches for label in batch]
    lines = [f"{file},{label}\n" for file, label in zip(files, classes, strict=True)]
    Path("classes.csv").write_text("".join(lines))


def run_contestant(name: str, folder: Path, checkpoint: str) -> None:
    torch.set_num_threads(1)
    files = sorted(map(str, folder.iterdir()))
    match name.split():
        case ["vitlit,", *_]:
            os.environ["GLIBC_TUNABLES"] = ""  # a user's own settings, so vitlit makes none
            by_vitlit(folder, checkpoint, None)
        case ["vitlit", *rest]:
            by_vitlit(folder, checkpoint, "32-true" if rest else None)
        case ["timm", precision]:
            by_timm(files, torch.bfloat16 if precision == "bf16" else None)
        case _:
            by_transformers(files)


# -- the parent: starts them in turn and reads the system's clock ------------------------------


def processor_seconds(words: list[str]) -> float:
    """User and system time of a process and of those that it waited for."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as home:
        child = subprocess.Popen(words, cwd=home, stdout=subprocess.DEVNULL, env=variables)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(words[:4])} ended with {child.returncode}")
    return used.ru_utime + used.ru_stime


def make_checkpoint(folder: Path) -> Path:
    """A ViT-S/16 after one step on this machine, in the precision that fit chooses here."""
    for label in ("a", "b"):
        photos.write_photos(folder / "data" / label, 4, (64, 48))
    words = ["fit", "--config", "photos.yaml", "--config", "vit_s16.yaml"]
    words += ["--data.data_dir", "data", "--data.batch_size", "4"]
    words += ["--trainer.max_steps", "1", "--trainer.max_epochs", "1"]
    words += ["--trainer.limit_val_batches", "1", ON_CPU]
    command = [sys.executable, "-m", "vitlit", *words]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("lightning_logs/*/checkpoints/last.ckpt"))


def compare(args: argparse.Namespace, size: tuple[int, int], counts: tuple[int, int]) -> list[Cell]:
    few, many = counts
    whole: Seconds = {name: [] for name in args.names}
    steady: Seconds = {name: [] for name in args.names}
    with tempfile.TemporaryDirectory() as home:
        checkpoint = make_checkpoint(Path(home))
        for count in counts:
            photos.write_photos(Path(home) / str(count), count, size)
        words = [sys.executable, str(Path(__file__).absolute()), "--checkpoint", str(checkpoint)]
        for turn in range(args.rounds):
            first = turn % len(args.names)
            for name in args.names[first:] + args.names[:first]:
                took = {
                    count: processor_seconds(
                        [*words, "--contestant", name, "--folder", f"{home}/{count}"]
                    )
                    for count in counts
                }
                whole[name].append(took[many])
                steady[name].append((took[many] - took[few]) / (many - few))
                print(f"{name}: {took}", file=sys.stderr, flush=True)
    title = f"{many} photographs of {size[0]}x{size[1]}"
    return [
        Cell(f"{title}, whole", whole, args.names[0], many),
        Cell(f"{title}, steady", steady, args.names[0], 1),
    ]


def main() -> None:
    parser = measure.parser(__doc__, rounds=3, warmup=0)
    parser.add_argument("--counts", type=int, nargs=2, default=(32, 500), help="few and many")
    parser.add_argument("--large", type=int, nargs=2, default=(8, 64), help="of 12 megapixels")
    parser.add_argument("--names", nargs="+", choices=[*NAMES, GIVING_BACK], default=None)
    for name in ("contestant", "folder", "checkpoint"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        run_contestant(args.contestant, Path(args.folder), args.checkpoint)
        return
    args.device, args.names = "cpu", args.names or usual_names()
    measure.check(args, parser)
    if args.quick:
        args.rounds, args.counts, args.large = 1, (16, 64), (4, 12)
    measure.report(args, __file__, cells(args), NOTE)


def usual_names() -> list[str]:
    """Without units for bf16, "vitlit" computes in float32, and bf16 is slow for all."""
    slow = () if has_bf16_units("cpu") else ("timm bf16", "vitlit fp32")
    return [name for name in NAMES if name not in slow]


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    for size, counts in ((photos.SMALL, args.counts), (photos.LARGE, args.large)):
        if counts[1]:
            yield from compare(args, size, tuple(counts))


if __name__ == "__main__":
    main()
