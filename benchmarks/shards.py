"""Write 200,000 16-pixel images as shards, and read a million, beside a folder of some of them.

The images are PNG files of noise. Those of a folder are written into shards, each under as many
names as it takes, by what `vitlit shard` calls: a folder of so many files would measure the file
system. Five links to each shard make a million images. Then two loaders take turns, batch by
batch, on one thread: that of the shards and that of the folder. Seconds are of the processor,
unless the table says that they passed.

    python benchmarks/shards.py --images 20000     # a minute
    python benchmarks/shards.py --write            # replaces shards.md
"""

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
from PIL import Image

from vitlit.data.shards import write_shards
from vitlit.data.shards.shard_list import LIST_FILE, LIST_FORMAT
from vitlit.data.shards.write_shards import Source, Written

CLASSES, SIDE, SHARD_IMAGES = 10, 16, 10_000
PAGE = Path(__file__).with_suffix(".md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=200_000, help="that are written")
    parser.add_argument(
        "--copies", type=int, default=5, help="of each shard that are read, as links to it"
    )
    parser.add_argument("--folder-images", type=int, default=5_000, help="of the folder beside it")
    parser.add_argument("--batches", type=int, default=200, help="of 256, of each loader")
    parser.add_argument("--at", help="folder to work in, which is kept, and used as it is")
    parser.add_argument("--write", action="store_true", help="replace shards.md")
    parser.add_argument("--read", nargs=2, metavar="DIR", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(*map(Path, args.read), args.batches)))
        return
    with contextlib.ExitStack() as stack:
        at = Path(args.at or stack.enter_context(tempfile.TemporaryDirectory()))
        text = table(args, *write(args, at), *started(at, args.batches))
    print(text)
    if args.write:
        PAGE.write_text(text + second_part(PAGE), encoding="utf-8")


def second_part(page: Path) -> str:
    """What shard_counts.py has written below the table, from the empty line on; perhaps nothing."""
    _, heading, rest = page.read_text(encoding="utf-8").partition("\n## ")
    return heading + rest


def write(args: argparse.Namespace, at: Path) -> tuple[dict[str, float], float]:
    """Make the folder and the shards; what writing took, and the megabytes of the shards."""
    make_folder(at / "some", min(args.folder_images, args.images))
    files = sorted((at / "some").rglob("*.png"))
    noted = at / "written.json"
    if not noted.exists():
        start, cpu = time.monotonic(), time.process_time()
        shards = [
            write_shards._write_shard(sources(files, first, args.images), path, Written())
            for first, path in shard_paths(at / "shards", args.images)
        ]
        paths = [path for _, path in shard_paths(at / "shards", args.images)]
        rows = [write_shards._row(*one, "all") for one in zip(shards, paths, strict=True)]
        names = [f"class{number}" for number in range(CLASSES)]
        about = {"format": LIST_FORMAT, "class_names": names, "shards": rows}
        (at / "shards" / LIST_FILE).write_text(json.dumps(about))
        used = resource.getrusage(resource.RUSAGE_SELF)
        took = {"seconds": time.monotonic() - start, "cpu": time.process_time() - cpu}
        noted.write_text(json.dumps(took | {"memory": used.ru_maxrss / 1e3}))
    size = sum(path.stat().st_size for path in (at / "shards").glob("all-*")) / 1e6
    add_copies(at / "shards", args.copies)
    return json.loads(noted.read_text()), size


def add_copies(folder: Path, copies: int) -> None:
    """Each shard and its index under several names, all in the list of the set."""
    about = json.loads((folder / LIST_FILE).read_text())
    rows = [row for row in about["shards"] if "copy" not in row["file"]]
    about["shards"] = [*rows]
    for row in rows:
        for number in range(1, copies):
            name = row["file"].replace("all-", f"copy{number}-")
            about["shards"].append(row | {"file": name})
            for ending in ("", ".index"):
                if not (folder / (name + ending)).exists():
                    os.link(folder / (row["file"] + ending), folder / (name + ending))
    (folder / LIST_FILE).write_text(json.dumps(about))


def shard_paths(folder: Path, count: int) -> Iterator[tuple[int, Path]]:
    """The first image of each shard, and its path."""
    folder.mkdir(exist_ok=True)
    for number, first in enumerate(range(0, count, SHARD_IMAGES)):
        yield first, folder / f"all-{number:06d}.tar"


def sources(files: list[Path], first: int, count: int) -> list[Source]:
    """The images of a shard: each of the files is there under many names."""
    found = []
    for number in range(first, min(first + SHARD_IMAGES, count)):
        path = files[number % len(files)]
        label = int(path.parent.name.removeprefix("class"))
        name = f"{path.parent.name}/{number:07d}.png"
        found.append(Source(str(path), name, label, path.stat().st_size, 0))
    return found


def make_folder(root: Path, count: int) -> None:
    """Class folders of ``count`` images in all, no two alike."""
    if root.exists():
        return
    rng = np.random.default_rng(0)
    for number in range(count):
        path = root / f"class{number % CLASSES}" / f"{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png", compress_level=1)
        path.write_bytes(file.getvalue())


def started(at: Path, batches: int) -> tuple[dict[str, Any]]:
    """What a process of its own finds that reads the shards, and the folder beside them."""
    words = [str(at / "shards"), str(at / "some"), "--batches", str(batches)]
    done = subprocess.run(
        [sys.executable, __file__, "--read", *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "VITLIT_CACHE": str(at / "cache")},
    )
    return (json.loads(done.stdout.splitlines()[-1]),)


def read(shards: Path, folder: Path, batches: int) -> dict[str, Any]:
    """Read batches in turns; seconds and megabytes of this process."""
    found: dict[str, Any] = {}
    loaders = {}
    for name, place in (("shards", shards), ("folder", folder)):
        before = time.process_time()
        loaders[name] = loader(name, place)
        next(loaders[name])
        found[f"first {name}"] = time.process_time() - before
        if name == "shards":
            # since the process began, its imports with it
            started = Path("/proc/self").stat().st_ctime
            found["wait"] = time.time() - started
            found["cpu until first batch"] = time.process_time()
            found["memory at first"] = memory()
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(batches):
        for name, own in loaders.items():
            before = time.process_time()
            next(own)
            seconds[name].append(time.process_time() - before)
    rates = {name: 256 / statistics.median(own) for name, own in seconds.items()}
    rest, middle = 10 * batches, memory()
    for _ in range(rest):
        next(loaders["shards"])
    return found | {"rates": rates, "middle": middle, "end": memory(), "more": rest}


def loader(name: str, place: Path) -> Iterator[Any]:
    from vitlit.data.datamodule import PlainImageData

    data = PlainImageData(
        dataset=name, data_dir=str(place), img_size=SIDE, patch_size=4, batch_size=256,
        num_workers=0, memory_gb=0.0,
    )  # fmt: skip
    data.setup("fit")
    while True:  # epoch after epoch
        yield from data.train_dataloader()


def memory() -> float:
    """Megabytes that this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def table(
    args: argparse.Namespace, took: dict[str, float], size: float, found: dict[str, Any]
) -> str:
    count, some = args.images * args.copies, min(args.folder_images, args.images)
    rates = found["rates"]
    cpu = "s of the processor"
    until = f"{found['cpu until first batch']:.1f} {cpu} ({found['wait']:.1f} s passed)"
    rows = [
        (
            f"writing {args.images:,} images",
            f"{took['cpu']:,.0f} {cpu} ({took['seconds']:,.0f} s passed)",
        ),
        ("their size", f"{size:,.0f} MB"),
        ("the most memory while writing", f"{took['memory']:,.0f} MB"),
        ("from the start of a process to the first batch", until),
        ("of these without imports", f"{found['first shards']:.1f} {cpu}"),
        (f"the same of a folder of {some:,}", f"{found['first folder']:.1f} {cpu}"),
        ("images a second of the processor, shards", f"{rates['shards']:,.0f}"),
        (f"images a second of the processor, folder of {some:,}", f"{rates['folder']:,.0f}"),
        ("ratio of the medians", f"{rates['shards'] / rates['folder']:.2f}"),
        ("memory at the first batch of the shards", f"{found['memory at first']:,.0f} MB"),
        (f"after {args.batches} batches of both", f"{found['middle']:,.0f} MB"),
        (f"after {found['more']:,} more of the shards", f"{found['end']:,.0f} MB"),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows]
    day = time.strftime("%Y-%m-%d")
    head = f"{day}, {measure.device_name('cpu', 1)}, {measure.packages()}"
    links = f" (each shard is there {args.copies} times, as links)" if args.copies > 1 else ""
    return (
        f"# Shards\n\n{head}\n\n`{measure.command()}`\n\n{count:,} PNG files of {SIDE}x{SIDE} "
        f"pixels{links} in {CLASSES} classes, read in batches of 256 without worker processes.\n\n"
        "| | |\n| --- | --- |\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
