"""Two processes read a set of shards between them, and count how often each image came.

They are started as torchrun starts them, talk by gloo, and read through the loader of `predict`,
which decodes each image. Needs the shards that `shards.py --at DIR` leaves.

    python benchmarks/shards.py --images 20000 --copies 1 --at DIR
    python benchmarks/shard_counts.py DIR/shards            # --write puts it into shards.md
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

import measure
import pytorch_lightning as pl
import torch
from shards import PAGE, SIDE, second_part

from vitlit import ImageData
from vitlit.data.batch import Batch

PROCESSES, HEADING = 2, "## Two processes"


class Counter(pl.LightningModule):
    """Counts the images that it is given, in place of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))  # DDP refuses a module without any
        self.counts = torch.zeros(0, dtype=torch.long)

    def on_predict_start(self) -> None:
        self.counts = torch.zeros(len(self.trainer.datamodule.files), dtype=torch.long)  # type: ignore[attr-defined]

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        # images that cannot be read are not valid, nor are rows that fill up a batch
        self.counts += batch.sample[batch.valid].bincount(minlength=len(self.counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shards", help="the folder that holds them")
    parser.add_argument("--write", action="store_true", help="put the table into shards.md")
    args = parser.parse_args()
    if "RANK" in os.environ:
        read_share(args.shards)
        return
    start = time.monotonic()
    found = read_by_all(args.shards)
    text = table(found, time.monotonic() - start)
    print(text)
    if args.write:
        first = PAGE.read_text(encoding="utf-8").removesuffix(second_part(PAGE))
        PAGE.write_text(first + text, encoding="utf-8")


def read_by_all(place: str) -> dict[str, Any]:
    """Start the processes, wait for them; what the first one found of all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(PROCESSES)}
    shared |= {"LOCAL_WORLD_SIZE": str(PROCESSES), "TORCHELASTIC_RUN_ID": "counts"}
    shared |= {"GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}  # as torchrun would
    started = [
        subprocess.Popen(
            [sys.executable, __file__, place],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    said = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started)
    found: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return found


def read_share(place: str) -> None:
    """Read the images of this process; the first one prints what all of them found."""
    data = ImageData(
        images=[place], dataset="folder", class_names=["0", "1"], img_size=SIDE, patch_size=4,
        batch_size=256, num_workers=0, memory_gb=0.0,
    )  # fmt: skip
    quiet: Any = dict.fromkeys(("progress_bar", "model_summary", "checkpointing"), False)
    trainer = pl.Trainer(
        accelerator="cpu", devices=PROCESSES, strategy="ddp", logger=False,
        **{f"enable_{name}": value for name, value in quiet.items()},
    )  # fmt: skip
    counter = Counter()
    trainer.predict(counter, datamodule=data, return_predictions=False)
    first, reduce = int(counter.counts.sum()), trainer.strategy.reduce
    own = torch.tensor([time.process_time(), float(first)], dtype=torch.float64)
    cpu, rows = reduce(own, reduce_op="sum").tolist()  # in place
    counts = reduce(counter.counts, reduce_op="sum")
    if trainer.is_global_zero:
        assert torch.distributed.get_backend() == "gloo"
        assert first == -(-len(counts) // PROCESSES)  # not the same images by both
        found = {"images": len(counts), "once": int((counts == 1).sum()), "rows": int(rows)}
        print(json.dumps(found | {"cpu": cpu}))


def table(found: dict[str, Any], seconds: float) -> str:
    rows = [
        ("images in the shards", f"{found['images']:,}"),
        ("read by both processes together", f"{found['rows']:,}"),
        ("images that were counted exactly once", f"{found['once']:,}"),
        (
            "reading, with the start of both",
            f"{found['cpu']:,.0f} s of the processor ({seconds:,.0f} s passed)",
        ),
    ]
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows)
    head = f"{time.strftime('%Y-%m-%d')}, {measure.device_name('cpu', 1)}"
    return (
        f"\n{HEADING}\n\n{head}\n\n`python benchmarks/shard_counts.py DIR/shards --write`\n\n"
        f"{PROCESSES} processes with gloo, one thread each, read the same set between them, in "
        f"batches of 256.\n\n| | |\n| --- | --- |\n{lines}\n"
    )


if __name__ == "__main__":
    main()
