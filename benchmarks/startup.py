"""How long a process takes to its first word, and in all: vitlit, torch, and two peers.

The contestants take turns, each in a process of its own with one thread; processor seconds (user
and system) are compared. All models have random weights of a ViT-S/16 with ten classes and read one
JPEG.

    python benchmarks/startup.py --write
    python benchmarks/startup.py --scores --rounds 3 --write  # of test and validate, in minutes
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import measure
import numpy as np
from measure import Cell
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
    "import torch": ["-c", "import torch"],
    "vitlit.load": ["-c", LOAD],
    "vitlit predict": ["-c", MAIN, *PREDICT],
    "timm's script": ["-c", TIMM],
    "transformers' pipeline": ["-c", TRANSFORMERS],
}
SCORING = {  # of the digits; an option that only Lightning has leaves the command to it
    "import torch": ["-c", "import torch"],
    "vitlit validate": ["-c", MAIN, "validate", "--run=digits"],
    "vitlit test": ["-c", MAIN, "test", "--run=digits"],
    "validate by Lightning": ["-c", MAIN, "validate", "--run=digits", "--verbose=false"],
    "test by Lightning": ["-c", MAIN, "test", "--run=digits", "--verbose=false"],
}
SPEAKING = {  # command -> what makes it begin
    "fit": ["--config", "digits.yaml"],
    "fit --help": [],
    "validate": ["--ckpt_path", "best"],
    "test": ["--ckpt_path", "best"],
    "predict": PREDICT[1:],
    "explain": PREDICT[1:],
    "export": [PREDICT[1]],
    "probe": ["--config", "digits.yaml", PREDICT[1]],
    "compare": ["a", "b"],
}
NOTE = (
    "Loading a model, and one image from file to five probabilities. The first word is the first "
    "byte written\nto a pipe, in seconds of wall time; beside it the processor seconds of `import "
    "torch`."
)
SCORES_NOTE = (
    "Whole processes that score the checkpoint of the digits. An option that only Lightning's "
    "Trainer has\nleaves a command to it."
)


def prepare(folder: Path) -> None:
    """One photograph-sized image, and a model in the formats of timm and transformers."""
    pixels = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg")
    make = (
        "from vitlit.deploy.export import export_model\n"
        "from vitlit.images.preprocess import Preprocess\nfrom vitlit.model.vit import ViT\n"
        "from pathlib import Path\n"
        f"model = ViT(**{SIZES})\nsize = model.img_size\n"
        "pre = Preprocess(3, size, size, (0.5,) * 3, (0.5,) * 3)\n"
        "for name in ('timm', 'huggingface'):\n"
        "    export_model(model, pre, [str(i) for i in range(10)], Path(name),\n"
        "                 format='safetensors', naming=name)\n"
    )
    subprocess.run([sys.executable, "-c", make], cwd=folder, check=True, capture_output=True)


def train(folder: Path) -> None:
    """One epoch of the digits' recipe, whose checkpoint is scored."""
    words = ["fit", "--config=digits.yaml", "--run=digits", "--trainer.max_epochs=1"]
    command = [sys.executable, "-c", MAIN, *words, "--trainer.accelerator=cpu"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def environment() -> dict[str, str]:
    """Of a machine without a GPU: the peers compute on the CPU."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def seconds(words: list[str], folder: Path) -> float:
    """Processor seconds of one process, and of those that it started."""
    for made in folder.glob("predictions*.csv"):
        made.unlink()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    variables = {**environment(), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, *words], cwd=folder, check=True, capture_output=True, env=variables
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def first_word(words: list[str], folder: Path) -> float:
    """Seconds of wall time until a process writes anything; it is ended then."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
    )
    assert process.stdout is not None
    process.stdout.read(1)
    found = time.perf_counter() - start
    process.kill()
    process.communicate()
    return found


def cells(rounds: int, folder: Path, *, only_scores: bool) -> Iterator[Cell]:
    """Processor seconds of whole processes, then wall time to the first word of each command.

    only_scores: those of test and validate alone.
    """
    if only_scores:
        train(folder)  # which reads from the disk all that is imported below
        scoring = {
            name: lambda words=words: seconds(words, folder) for name, words in SCORING.items()
        }
        title = "Processor seconds of test and validate, to the end"
        found = timed(scoring, rounds, warmup=False)
        yield Cell(title, found, "import torch", 1, "processes")
        return
    whole = {
        name: lambda words=words: seconds(words, folder) for name, words in CONTESTANTS.items()
    }
    yield Cell(
        "Processor seconds, to the end", timed(whole, rounds), "timm's script", 1, "processes"
    )
    lines = {f"vitlit {command}": [*command.split(), *more] for command, more in SPEAKING.items()}
    speaking = {
        name: lambda words=words: first_word(["-c", MAIN, *words], folder)
        for name, words in lines.items()
    }
    speaking["import torch"] = lambda: seconds(["-c", "import torch"], folder)
    yield Cell("Seconds to the first word", timed(speaking, rounds), "import torch", 1, "processes")


def timed(
    calls: dict[str, Callable[[], float]], rounds: int, *, warmup: bool = True
) -> measure.Seconds:
    """What the calls return, each round one of each."""
    for call in calls.values() if warmup else ():
        call()  # files are read from the disk, and compiled
    found: measure.Seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    return found


def main() -> None:
    parser = measure.parser(__doc__ or "", rounds=7, warmup=0)
    parser.add_argument("--scores", action="store_true", help="time test and validate alone")
    args = parser.parse_args()
    args.device = "cpu"
    measure.check(args, parser)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        rounds = 1 if args.quick else args.rounds
        found = cells(rounds, folder, only_scores=args.scores)
        if args.scores:
            table = Path(__file__).with_name("startup_scores.md")
            measure.report(args, str(table), found, SCORES_NOTE)
        else:
            measure.report(args, __file__, found, NOTE)


if __name__ == "__main__":
    main()
