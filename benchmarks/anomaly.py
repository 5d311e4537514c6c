r"""AUROC of `vitlit anomaly` on MNIST: one digit is normal, the nine others are not.

    vitlit fit --config mnist.yaml --model.patch_embed linear --model.stem_convs 1 \
      --model.pos_embed sincos2d --model.attention_init xavier \
      --model.embed_dim 64 --model.num_heads 4 --model.depth 4 \
      --trainer.max_epochs 3 --run digits
    python benchmarks/anomaly.py --run lightning_logs/digits --mnist ~/.cache/vitlit/MNIST/raw

Normal images are training images of a digit, new ones are test images of all ten. Prints a row for
each kind of weights: the mean over the ten digits, and the lowest and highest.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from PIL import Image

from vitlit import load
from vitlit.__main__ import main

NORMAL, NEW = 200, 50  # images of a digit


def read(path: Path, start: int) -> np.ndarray:
    return np.frombuffer(path.read_bytes(), np.uint8, offset=start)


def write_digits(raw: Path, part: str, folder: str, count: int) -> None:
    """The first ``count`` images of each digit as PNG files, folder/DIGIT/NUMBER.png."""
    pixels = read(raw / f"{part}-images-idx3-ubyte", 16).reshape(-1, 28, 28)
    labels = read(raw / f"{part}-labels-idx1-ubyte", 8)
    for digit in range(10):
        place = Path(folder, str(digit))
        place.mkdir(parents=True)
        for i in np.flatnonzero(labels == digit)[:count]:
            Image.fromarray(pixels[i]).save(place / f"{i:05}.png")


def write_random(run: Path, path: str) -> None:
    """The same model with the weights that a training begins with."""
    model, *_ = load(run)
    torch.manual_seed(0)
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    fresh = type(model)(**model.config).state_dict()
    state["state_dict"] = {f"vit.{name}": value for name, value in fresh.items()}
    torch.save(state, path)


def score(weights: str, *more: str) -> list[float]:
    """AUROC for each digit as the normal one."""
    found = []
    for digit in range(10):
        words = [f"--ckpt_path={weights}", f"--normal=train/{digit}", "--data.images=test"]
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            assert main(["anomaly", *words, f"--out={folder}/a", "--count=1", *more]) == 0
            found.append(json.loads(Path(folder, "a/metrics.json").read_text())["auroc"])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--mnist", type=Path, required=True)
    args = parser.parse_args()
    run, raw = args.run.resolve(), args.mnist.expanduser().resolve()
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        write_digits(raw, "train", "train", NORMAL)
        write_digits(raw, "t10k", "test", NEW)
        write_random(run, "random.ckpt")
        trained = str(run / "checkpoints" / "best.ckpt")
        print("| weights | options | mean AUROC | lowest | highest |\n|---|---|---|---|---|")
        for name, weights, options in (
            ("trained", trained, ()),
            ("trained", trained, ("--layer=1",)),
            ("trained", trained, ("--bank=500",)),
            ("random", "random.ckpt", ()),
        ):
            found = score(weights, *options)
            numbers = f"{mean(found):.4f} | {min(found):.4f} ({found.index(min(found))})"
            print(f"| {name} | {' '.join(options)} | {numbers} | {max(found):.4f} |", flush=True)
