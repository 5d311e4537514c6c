"""What the commands say of a stored checkpoint: figures that must stay, whatever the code becomes.

tests/data/old_checkpoint/last.ckpt, *.png -> {"test": ..., "predict": ..., "resume": ...}

As a program it prints them, which is how an earlier version of the code recorded expected.json.
"""

import csv
import json
import shutil
import tempfile
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from vitlit.__main__ import main

STORED = Path(__file__).parents[1] / "stored" / "old_checkpoint"
OPTIONS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
OPTIONS += ["--trainer.enable_model_summary=false"]


def run(command: str, *args: str) -> None:
    """Of a copy of the checkpoint in the current folder."""
    if not Path("last.ckpt").exists():
        shutil.copy(STORED / "last.ckpt", "last.ckpt")
    with redirect_stdout(StringIO()):
        assert main([command, "--ckpt_path=last.ckpt", *args, *OPTIONS]) == 0


def sums(arrays: dict[str, Any]) -> dict[str, list[float]]:
    """Of each array the size, the sum, and a sum that depends on the order too."""
    found = {}
    for name, array in sorted(arrays.items()):
        values = np.asarray(array, dtype=np.float64).ravel()
        order = np.sin(np.arange(1, len(values) + 1))
        found[name] = [float(len(values)), float(values.sum()), float(values @ order)]
    return found


def of_test() -> dict[str, float]:
    """Scores of the digits held out."""
    run("test", "--out=report")
    scores = json.loads(Path("report/metrics.json").read_text(encoding="utf-8"))["scores"]
    return {name: scores[name] for name in ("acc", "loss", "images")}


def of_predict() -> dict[str, str]:
    """Classes and probabilities of the stored digits, by file."""
    run("predict", "--data.images", str(STORED), "--out=found.csv")
    with Path("found.csv").open(newline="", encoding="utf-8") as file:
        return {Path(row["file"]).name: row["top5"] for row in csv.DictReader(file)}


def of_explain() -> dict[str, list[float]]:
    """Sums of the arrays for the stored digits."""
    run("explain", "--data.images", str(STORED), "--out=explained")
    with np.load("explained/arrays.npz") as arrays:
        names = ("attention", "rollout", "cls_map", "relevance", "probabilities", "distance")
        return sums({name: arrays[name] for name in names})


def of_export() -> dict[str, list[float]]:
    """Sums of the tensors of the safetensors file."""
    run("export", "--out=exported")
    return sums(load_file("exported/model.safetensors"))


def of_resume() -> dict[str, list[float]]:
    """Sums of the weights at the end of the training that the checkpoint is from the midst of."""
    run("fit", "--run=resumed", "--trainer.log_every_n_steps=20")
    [file] = Path("lightning_logs/resumed").glob("checkpoints/last.ckpt")
    content = torch.load(file, weights_only=True)
    steps = {"steps": [content["global_step"]], "epochs": [content["epoch"]]}
    return sums(content["state_dict"] | steps)


FIGURES = {
    "test": of_test,
    "predict": of_predict,
    "explain": of_explain,
    "export": of_export,
    "resume": of_resume,
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        print(json.dumps({name: figures() for name, figures in FIGURES.items()}, indent=1))
