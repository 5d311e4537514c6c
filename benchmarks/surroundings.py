"""What surrounds a command: changed folders, small shared memory, full disks, pipes, signals.

Each function tries one kind on real processes and gives a Row.
"""

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from faults import PATIENCE, Training, last, quiet, same, saved
from PIL import Image
from promises import Row

CLASSES = ("ant", "bee", "cat")
COMMANDS = ("test", "explain", "export", "predict", "probe")
PLAIN = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
PLAIN += ["--trainer.enable_model_summary=false"]
TINY = ["--model.embed_dim=8", "--model.depth=1", "--model.num_heads=1", "--trainer.max_epochs=1"]
TINY += ["--trainer.log_every_n_steps=1", "--data.dataset=folder"]
# In a mount namespace of their own; $0 is the size.
SMALL_DISK = 'mount -t tmpfs -o size=$0 none "$1" && cd "$1" && shift && '
SMALL_DISK += '{ "$@"; status=$?; ls -A; exit $status; }'
SMALL_MEMORY = 'mount -t tmpfs -o size=$0 none /dev/shm && exec "$@"'
CONTAINER = "64m"  # of /dev/shm, as containers have it


def vitlit(*words: str) -> list[str]:
    return [sys.executable, "-m", "vitlit", *words, *PLAIN]


def ended(folder: Path, command: list[str]) -> "subprocess.CompletedProcess[str]":
    """A command that has ended; its status is -1 where it hangs and has to be killed."""
    environment = {**os.environ, **quiet(), "VITLIT_CACHE": str(folder.parent / "cache")}
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, -1, "", "")


def noise(path: Path, seed: int, size: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def photos(root: Path, count: int, size: int = 20) -> None:
    """A folder with as many images of noise in each class."""
    for place, label in enumerate(CLASSES):
        for number in range(count):
            noise(root / label / f"{number}.png", count * place + number, size)


Change = Callable[[Path, dict[str, str]], Path]


def changes(draws: random.Random) -> dict[str, Change]:
    """What becomes of a folder, by name.

    Each takes the folder, and what its files were called at first by what they are called now,
    which it keeps right. It returns where the folder is.
    """

    def some(origin: dict[str, str], count: int) -> list[str]:
        return draws.sample(sorted(origin), count)

    def add(root: Path, origin: dict[str, str]) -> Path:
        for number in range(15):
            name = f"{CLASSES[number % 3]}/{number}-new.png"
            noise(root / name, 1000 + number)
            origin[name] = "new"
        return root

    def remove(root: Path, origin: dict[str, str]) -> Path:
        for name in some(origin, 12):
            (root / name).unlink()
            del origin[name]
        return root

    def rename(root: Path, origin: dict[str, str]) -> Path:
        for number, name in enumerate(some(origin, 25)):
            new = f"{name[:4]}{number}-{name[4:]}"
            (root / name).rename(root / new)
            origin[new] = origin.pop(name)
        return root

    def recompress(root: Path, origin: dict[str, str]) -> Path:
        for name in some(origin, 25):
            image = Image.open(root / name).convert("RGB")
            image.save(root / name, format="JPEG", quality=60)
        return root

    def move(root: Path, origin: dict[str, str]) -> Path:
        return root.rename(root.with_name("moved"))

    return {f.__name__: f for f in (add, remove, rename, recompress, move)}


def scored(folder: Path, root: Path, split: str, report: str) -> set[str] | None:
    """Names of the images that ``vitlit test`` scores of a split; None where it fails."""
    words = [f"--data.data_dir={root}", f"--data.split={split}", f"--out={report}"]
    if ended(folder, vitlit("test", "--ckpt_path=last", *words)).returncode:
        return None
    with np.load(folder / report / "probabilities.npz") as arrays:
        return {Path(str(file)).relative_to(root).as_posix() for file in arrays["files"]}


def changed_data(folder: Path) -> Row:
    """Train on a folder, change it in five ways one after the other, and test after each."""
    root = folder / "photos"
    photos(root, 50)
    small = ["--data.img_size=8", "--model.patch_size=4", "--data.batch_size=16"]
    ended(folder, vitlit("fit", f"--data.data_dir={root}", *TINY, *small))
    held = {split: scored(folder, root, split, f"first-{split}") for split in ("val", "test")}
    names = [path.relative_to(root).as_posix() for path in root.rglob("*.png")]
    origin = dict(zip(names, names, strict=True))
    trained = set(origin) - (held["val"] or set()) - (held["test"] or set())
    counts, seen = [], 0
    for name, change in changes(random.Random(0)).items():
        root = change(root, origin)
        found = scored(folder, root, "test", f"{name}-test")
        bad = sum(origin[file] in trained for file in found or ())
        counts.append(f"{name} {bad} of {len(found or ())}")
        seen += bad if found else 1
    promised = "after each, no image that was trained on is scored"
    what = "3 x 50 images after a training: add, remove, rename, recompress, move"
    return Row(what, promised, "trained on: " + ", ".join(counts), seen == 0 and bool(held["test"]))


def small_memory(folder: Path) -> Row:
    """Training and prediction by two loaders where /dev/shm is as small as in a container."""
    photos(folder / "photos", 100, 128)
    data = ["--data.memory_gb=0", "--data.num_workers=2", "--data.batch_size=128"]
    fit = [
        f"--data.data_dir={folder / 'photos'}",
        *TINY,
        "--data.img_size=128",
        "--model.patch_size=32",
        *data,
    ]
    predict = ["--ckpt_path=last", f"--data.images={folder / 'photos'}", *data]
    container = ["unshare", "-rm", "sh", "-c", SMALL_MEMORY, CONTAINER]
    done: list[subprocess.CompletedProcess[str]] = []
    for place, before in {"small": container, "large": []}.items():
        (folder / place).mkdir()
        for words in (["fit", *fit], ["predict", *predict]):
            done.append(ended(folder / place, [*before, *vitlit(*words)]))
    texts = [folder / place / "predictions.csv" for place in ("small", "large")]
    equal = all(path.exists() for path in texts) and len({digest(path) for path in texts}) == 1
    weights = [saved(folder / place).get("state_dict") for place in ("small", "large")]
    equal = equal and weights[0] is not None and same(*weights)
    said = sum("/dev/shm has" in one.stderr for one in done[:2])
    hung = sum(one.returncode == -1 for one in done)
    right = equal and said == 2 and [one.returncode for one in done] == [0] * 4
    found = f"weights and predictions {'equal' if equal else 'DIFFER'}; {said} of 2 say it; "
    found += f"{hung} hung"
    promised = "no hang; said; weights and predictions as with a large one"
    what = "64 MB of /dev/shm (mounted), batches of 128 images of 128x128, 2 loaders: fit, predict"
    return Row(what, promised, found, right)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def prepared(folder: Path) -> dict[str, list[str]]:
    """The words of five commands for a training of the digits, and for images with long names."""
    Training(folder, "--trainer.max_epochs=1").end()
    for number in range(150):
        path = folder / "photos" / f"{number:040}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    more = [f"--ckpt_path={last(folder)}"]
    return {
        "test": ["test", "--out=report", *more],
        "explain": ["explain", "--count=1", *more],
        "export": ["export", *more],
        "predict": ["predict", f"--data.images={folder / 'photos'}", *more],
        "probe": ["probe", "--k=1", *more],
    }


def row_of(what: str, promised: str, wrong: dict[str, str], tries: int) -> Row:
    """wrong: what went wrong in which try."""
    found = f"{tries - len(wrong)} of {tries}"
    found += "".join(f"; {name}: {text}" for name, text in wrong.items())
    return Row(what, promised, found, not wrong)


def full_disk(folder: Path) -> Row:
    """Five commands that write to a disk of 4 kB."""
    wrong, words = {}, prepared(folder)
    (folder / "disk").mkdir()
    for name in COMMANDS:
        place = [SMALL_DISK, "4k", str(folder / "disk")]
        done = ended(folder, ["unshare", "-rm", "sh", "-c", *place, *vitlit(*words[name])])
        sentence = done.stderr.strip().rpartition("\n")[2]
        is_said = sentence.startswith("vitlit: cannot write ") and "No space left" in sentence
        if done.returncode != 2 or not is_said or "Traceback" in done.stderr or done.stdout:
            wrong[name] = f"status {done.returncode}, left {done.stdout.split()}"
    promised = "status 2, one sentence, nothing unfinished left"
    return row_of(f"full disk in {', '.join(COMMANDS)}", promised, wrong, len(COMMANDS))


def closed_output(folder: Path) -> Row:
    """Five commands whose words nobody reads: a pipe that closes, and no stream at all."""
    wrong, words = {}, prepared(folder)
    lines = {"| head -1": '"$@" 2>&1 | head -1', "closed": '"$@" >&- 2>&-'}
    for name in COMMANDS:
        for kind, line in lines.items():
            place = folder / f"{name} {len(kind)}"
            place.mkdir()
            done = ended(place, ["bash", "-o", "pipefail", "-c", line, "-", *vitlit(*words[name])])
            files = [path for path in place.rglob("*") if path.is_file()]
            is_whole = files and not any(path.name.startswith(".") for path in files)
            if done.returncode or not is_whole or "Traceback" in done.stdout + done.stderr:
                wrong[f"{name} {kind}"] = f"status {done.returncode}, {len(files)} files"
    what = f"`| head -1`, and both streams closed, in {', '.join(COMMANDS)}"
    return row_of(what, "status 0, no traceback, the results written", wrong, 2 * len(COMMANDS))


STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def stopped(folder: Path, tries: int) -> Row:
    """SIGINT and SIGTERM to five commands at random times of their work."""
    wrong, words, draws = {}, prepared(folder), random.Random(0)
    words["predict"] += ["--data.batch_size=1", "--output=features"]
    for name in COMMANDS:
        for signum, status in STATUS.items():
            for number in range(tries):
                delay, code = draws.random() * 0.5, 0
                # A signal after the work is done ends a process that is ending: come earlier.
                while code in (0, -signum) and delay > 0.01:
                    place = folder / f"{name}-{signum.name}-{number}-{delay:.3f}"
                    place.mkdir()
                    code, said = signalled(place, vitlit(*words[name]), signum, delay)
                    delay /= 2
                left = [path.name for path in place.rglob("*")]
                is_kept = re.search(r"after \d+ of 150 images; wrote", said) is not None
                whole = ["features.npz"] if is_kept and name == "predict" else []
                if code != status or "Traceback" in said or left != whole:
                    wrong[f"{name} {signum.name}"] = f"status {code}, left {left}"
    what = f"SIGINT and SIGTERM in {', '.join(COMMANDS)}, {tries} times each"
    promised = "status 130 and 143; nothing unfinished left; predict keeps what is done"
    return row_of(what, promised, wrong, 2 * tries * len(COMMANDS))


def signalled(
    folder: Path, command: list[str], signum: signal.Signals, delay: float
) -> tuple[int, str]:
    """Status and words of a command that gets a signal so many seconds after its first words."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **quiet()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    first = ""
    while "precision " not in first:
        line = process.stderr.readline()
        if not line:
            break
        first += line
    time.sleep(delay)
    process.send_signal(signum)
    try:
        _, rest = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        rest, _ = "", process.kill()
        return -1, first
    return process.returncode, first + rest
