"""A folder in which much is wrong: checkpoints, images, classes, configs and links of odd kinds."""

import pickle
from pathlib import Path

import torch
from PIL import Image

LABELS = {
    "labels.csv": "file,class\nnosuch.png,a\n",
    "head.csv": "file,class\n",
    "empty.csv": "",
    "columns.csv": "a,b\n1,2\n",
    "twice.csv": "file,class\na/0.png,x\na/0.png,y\n",
}
CONFIGS = {
    "binary.yaml": bytes(range(256)),
    "latin.yaml": "run: café\n".encode("latin-1"),
    "wide.yaml": "run: a\n".encode("utf-16"),
    "empty.yaml": b"",
    "list.yaml": b"- a\n",
    "tab.yaml": b"model:\n\tdepth: 3\n",
    "two.yaml": b"run: a\n---\nrun: b\n",
    "nested.yaml": b"config: digits.yaml\n",
    "command.yaml": b"fit: {model: {depth: 1}}\n",
}


def make_odd_folder(root: Path, checkpoint: Path) -> None:
    """Fill ``root``; checkpoint: a good one, which becomes ok.ckpt."""
    good = checkpoint.read_bytes()
    files = {"ok.ckpt": good, "cut.ckpt": good[: len(good) // 2], "empty.ckpt": b""}
    files |= {"text.ckpt": b"text\n", "pickle.ckpt": pickle.dumps({"a": 1}), "file.txt": b"text"}
    files |= {name: text.encode() for name, text in LABELS.items()} | CONFIGS
    for name, content in files.items():
        (root / name).write_bytes(content)
    for name, value in {"list": [1, 2], "odd": {"state_dict": 3}, "tensor": torch.ones(3)}.items():
        torch.save(value, root / f"{name}.ckpt")
    for name in ("folder.ckpt", "folder.yaml.d", "empty", "classes/a", "classes/b"):
        (root / name).mkdir(parents=True)
    for name, target in {"loop.ckpt": "loop.ckpt", "loop.yaml": "loop.yaml", "lost": "no"}.items():
        (root / name).symlink_to(target)
    _write_images(root)


def _write_images(root: Path) -> None:
    good = [f"photos/{label}/{number}.png" for label in "ab" for number in range(4)]
    good += ["one/a/0.png", "half/a/0.png", "flat/0.png", "looped/b/0.png"]
    for place, name in enumerate(good):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (9 * place, 0, 99)).save(root / name)
    (root / "half" / "b").mkdir()
    (root / "looped" / "a").symlink_to("../looped")
    bad = [f"bad/{label}/{number}.png" for label in "ab" for number in range(4)]
    for name in (*bad, "texts/a/0.txt", "texts/b/0.pdf"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image")
