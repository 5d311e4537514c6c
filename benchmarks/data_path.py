"""Time training batches, from pixels or files to normalised tensors, against torchvision.

torchvision's pipelines work on one image at a time, in a DataLoader; vitlit's on whole batches,
where the model is. Both make the same kind of batch: of 32x32 images that are in memory, and of
224x224 crops out of JPEG files of 500x375 and of 12 megapixels. All load in the training process,
on ``--threads`` threads; with ``--workers``, so many worker processes load the files for each.

    python benchmarks/data_path.py --quick    # under a minute, too short to keep
    python benchmarks/data_path.py --write    # replaces its device's part of data_path.md
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measure
import photos
import torch
from measure import Cell
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import io
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from vitlit.data.catalog import IMAGENET_MEAN, IMAGENET_STD, SOURCES
from vitlit.data.datamodule import PlainImageData
from vitlit.data.splits import Split
from vitlit.images.image_store import MemoryImages

Call = Callable[[], None]
BATCH = 256
CIFAR = SOURCES["cifar10"]
NOTE = """Images per second of whole batches, ready for the model; loaded without worker processes,
unless the title says so.
"PIL" is what torchvision's CIFAR-10 and ImageFolder give, through torchvision.transforms; "v2" is
torchvision.transforms.v2 on one uint8 tensor at a time, which Pillow decodes; "v2, decode_jpeg" is
the same with torchvision.io.decode_jpeg. MixUp and CutMix are torchvision's, on the batch. The
photographs are those of photos.py. On one thread, seconds are of the processor.
"""


class Memory(Dataset[tuple[Any, int]]):
    """Images in one array, as torchvision's CIFAR-10 holds them, handed out one at a time."""

    def __init__(self, pixels: Tensor, transform: Callable[[Any], Tensor], as_pil: bool) -> None:
        self.pixels, self.transform, self.as_pil = pixels, transform, as_pil
        self.array = pixels.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.array[index]) if self.as_pil else self.pixels[index]
        return self.transform(image), index % 10


def drain(loader: DataLoader[Any], device: str) -> Call:
    """One epoch; the batches end on the device."""

    def run() -> None:
        for x, y in loader:
            x.to(device, non_blocking=True), y.to(device, non_blocking=True)

    return run


def drain_ours(data: PlainImageData, device: str) -> Call:
    loader = data.train_dataloader()  # once: its worker processes stay

    def run() -> None:
        for batch in loader:
            moved = data.transfer_batch_to_device(batch, torch.device(device), 0)
            data.transform(moved, augment=True)

    return run


def load(dataset: Dataset[Any], mix: bool = False) -> DataLoader[Any]:
    both = v2.RandomChoice([v2.MixUp(alpha=0.8, num_classes=10), v2.CutMix(num_classes=10)])
    collate = (lambda rows: both(*default_collate(rows))) if mix else default_collate
    pin = torch.cuda.is_available()
    return DataLoader(
        dataset, batch_size=BATCH, shuffle=True, drop_last=True, collate_fn=collate, pin_memory=pin
    )


def in_memory(pixels: Tensor, **settings: Any) -> PlainImageData:
    data = PlainImageData(
        dataset="cifar10", batch_size=BATCH, patchify=False, patch_size=4, crop_padding=4,
        flip=True, **settings,
    )  # fmt: skip
    labels = torch.arange(len(pixels)) % 10
    data.splits["train"] = Split(MemoryImages(pixels, labels), torch.arange(len(pixels)))
    return data


def small_images(count: int, device: str, strong: bool) -> dict[str, Call]:
    """32x32: crop, flip, normalise; strong adds RandAugment(2, 9) and MixUp or CutMix."""
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    pil = [v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip()]
    pil += [v1.RandAugment(2, 9)] if strong else []
    pil += [v1.ToTensor(), v1.Normalize(CIFAR.mean, CIFAR.std)]
    one = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
    one += [v2.RandAugment(2, 9)] if strong else []
    one += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(CIFAR.mean, CIFAR.std)]
    settings = {"auto_augment": "randaugment", "mixup": 0.8, "cutmix": 1.0} if strong else {}
    return {
        "PIL": drain(load(Memory(pixels, v1.Compose(pil), True), strong), device),
        "v2": drain(load(Memory(pixels, v2.Compose(one), False), strong), device),
        "vitlit": drain_ours(in_memory(pixels, **settings), device),
    }


def decode_jpeg(path: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return io.decode_jpeg(io.read_file(path), io.ImageReadMode.RGB)


def large_files(folder: Path, device: str, workers: int) -> dict[str, Call]:
    """224x224 out of JPEG files: resized crop, flip, normalise."""
    normal = v1.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    pil = [v1.RandomResizedCrop(224), v1.RandomHorizontalFlip(), v1.ToTensor(), normal]
    one = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()]
    one += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    from_pil, from_tensor = v2.Compose([v2.PILToTensor(), *one]), v2.Compose(one)
    root = str(folder / "train")
    batch = min(64, len(list((folder / "train").glob("*/*.jpg"))))
    data = PlainImageData(
        dataset="folder", data_dir=str(folder), batch_size=batch, patchify=False, memory_gb=0,
        num_workers=workers, resized_crop=[0.08, 1.0], flip=True, val_fraction=0.01,
    )  # fmt: skip
    data.setup("fit")
    images = data.splits["train"].images
    data.splits["train"] = Split(images, torch.arange(len(images)))
    options: dict[str, Any] = {"batch_size": batch, "shuffle": True, "drop_last": True}
    options |= {"num_workers": workers, "persistent_workers": workers > 0}
    options |= {"pin_memory": torch.cuda.is_available()}
    return {
        "PIL": drain(DataLoader(ImageFolder(root, v1.Compose(pil)), **options), device),
        "v2": drain(DataLoader(ImageFolder(root, from_pil), **options), device),
        "v2, decode_jpeg": drain(
            DataLoader(ImageFolder(root, from_tensor, loader=decode_jpeg), **options), device
        ),
        "vitlit": drain_ours(data, device),
    }


def main() -> None:
    parser = measure.parser(__doc__, rounds=7)
    parser.add_argument("--workers", type=int, default=0, help="processes that load files")
    parser.add_argument("--only", choices=list(KINDS), help="one kind of images")
    args = parser.parse_args()
    measure.check(args, parser)
    if args.quick:
        args.rounds = 2
    measure.report(args, __file__, all_cells(args), NOTE)


def all_cells(args: argparse.Namespace) -> Iterator[Cell]:
    """Each comparison, when it is asked for."""
    for kind, cells in KINDS.items():
        if args.only in (None, kind):
            yield from cells(args)


def memory_cells(args: argparse.Namespace) -> Iterator[Cell]:
    count = 1024 if args.quick else 5120
    for what, strong in (
        ("crop, flip, normalise", False),
        ("the same with RandAugment(2, 9) and MixUp or CutMix", True),
    ):
        calls = small_images(count, args.device, strong)
        yield compare(args, f"32 px in memory, {what}", calls, count)


def file_cells(args: argparse.Namespace) -> Iterator[Cell]:
    large = 64 if args.quick else 256
    if args.workers and not args.quick:
        large = 2048  # so that what is loaded ahead does not matter
    for what, size, count in (
        ("500x375", photos.SMALL, large),
        ("12 megapixels", photos.LARGE, max(8, large // 16)),
    ):
        with tempfile.TemporaryDirectory() as name:
            for label in ("a", "b"):
                photos.write_photos(Path(name) / "train" / label, count // 2, size)
            title = f"224 px from JPEG files of {what}, resized crop, flip, normalise"
            title += f", --workers {args.workers} for each" if args.workers else ""
            calls = large_files(Path(name), args.device, args.workers)
            yield compare(args, title, calls, count)


KINDS = {"memory": memory_cells, "files": file_cells}


def compare(args: argparse.Namespace, title: str, calls: dict[str, Call], items: int) -> Cell:
    options = {"rounds": args.rounds, "warmup": args.warmup, "device": args.device}
    seconds = measure.take_turns(calls, **options, alone=not args.workers)
    return Cell(title, seconds, "PIL", items)


if __name__ == "__main__":
    main()
