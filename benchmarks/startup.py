"""Processor seconds from the start of a process to its end: vitlit, torch, and two peers.

The contestants take turns, each in a process of its own; the medians of user and system seconds
are compared. All models have random weights of a ViT-S/16 with ten classes and read one JPEG.

    python benchmarks/startup.py --repeats 7
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {"embed_dim": 384, "depth": 12, "num_heads": 6, "num_classes": 10, "img_size": 224}
TIMM = (
    "import timm, torch\nfrom PIL import Image\n"
    "model = timm.create_model('local-dir:timm').eval()\n"
    "data = timm.data.resolve_model_data_config(model)\n"
    "make = timm.data.create_transform(**data)\n"
    "with torch.inference_mode():\n"
    "    x = make(Image.open('a.jpg').convert('RGB'))[None]\n"
    "    print(model(x).softmax(1).topk(5))\n"
)
TRANSFORMERS = (
    "from transformers import pipeline\n"
    "print(pipeline('image-classification', model='huggingface', device='cpu')('a.jpg'))\n"
)
LOAD = "import vitlit\nvitlit.load('timm')\n"
MAIN = "import sys\nfrom vitlit.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
PREDICT = ["predict", "--model.pretrained=timm", "--data.images=a.jpg", "--trainer.accelerator=cpu"]
CONTESTANTS = {
    "`import torch`": ["-c", "import torch"],
    "`vitlit.load`": ["-c", LOAD],
    "`vitlit predict --help`": ["-c", MAIN, "predict", "--help"],
    "`vitlit predict`, one image": ["-c", MAIN, *PREDICT],
    "timm's script, one image": ["-c", TIMM],
    "transformers' pipeline, one image": ["-c", TRANSFORMERS],
}


def prepare(folder: Path) -> None:
    """One photograph-sized image, and a model in the formats of timm and transformers."""
    pixels = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg")
    make = (
        "from vitlit.weights.export import export_model\n"
        "from vitlit.images.preprocess import Preprocess\nfrom vitlit.model.vit import ViT\n"
        "from pathlib import Path\n"
        f"model = ViT(**{SIZES})\nsize = model.img_size\n"
        "pre = Preprocess(3, size, size, (0.5,) * 3, (0.5,) * 3)\n"
        "for name in ('timm', 'huggingface'):\n"
        "    export_model(model, pre, [str(i) for i in range(10)], Path(name),\n"
        "                 format='safetensors', naming=name)\n"
    )
    subprocess.run([sys.executable, "-c", make], cwd=folder, check=True, capture_output=True)


def seconds(words: list[str], folder: Path) -> float:
    """Processor seconds of one process, and of those that it started."""
    for made in folder.glob("predictions*.csv"):
        made.unlink()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    variables = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, *words], cwd=folder, check=True, capture_output=True, env=variables
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Time the contestants in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for words in CONTESTANTS.values():
            seconds(words, folder)  # files are read from the disk, and compiled
        for _ in range(repeats):
            for contestant, words in CONTESTANTS.items():
                times[contestant].append(seconds(words, folder))
    base = statistics.median(times["`import torch`"])
    print(
        "| process | CPU seconds, median (lowest to highest) | of `import torch` |\n|---|---|---|"
    )
    for contestant, found in times.items():
        median = statistics.median(found)
        span = f"{median:.2f} ({min(found):.2f} to {max(found):.2f})"
        print(f"| {contestant} | {span} | {median / base:.2f} |", flush=True)


if __name__ == "__main__":
    main()
