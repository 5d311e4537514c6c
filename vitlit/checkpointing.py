"""Checkpoints: finding one, reading it safely, and a model ready to use.

path | run folder | best | last -> file -> {state_dict, hyper_parameters, ...} -> ViT
"""

import inspect
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vitlit.datamodule import ImageData
from vitlit.errors import InputError
from vitlit.images import Preprocess
from vitlit.vit import ViT

RUNS = "lightning_logs"  # of the current folder: where `best` and `last` are looked for
MODEL, DATA = "hyper_parameters", "datamodule_hyper_parameters"  # Lightning's keys


class Loaded(NamedTuple):
    """A model in evaluation mode, what turns its input into tensors, and its class names.

    ``model(preprocess(preprocess.read("cat.jpg")[None]))`` gives logits ``(1, num_classes)``.
    """

    model: ViT
    preprocess: Preprocess
    class_names: list[str]


def resolve(path: str) -> Path:
    """The checkpoint file that ``path`` means.

    path: a file; a run folder (its best checkpoint, else its last); or ``best`` or ``last``, of
    the newest run in ./lightning_logs.
    """
    if path in ("best", "last"):
        return _newest(path)
    if "://" in path:
        raise InputError(f"{path} is an address; download the checkpoint and give its path")
    found = Path(path).expanduser()
    if found.is_file():
        return found
    if not found.is_dir():
        raise InputError(f"no checkpoint {path}; give a .ckpt file, a run folder, best or last")
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "best.ckpt", "last.ckpt"):
        if (found / name).is_file():
            return found / name
    raise InputError(f"no checkpoint in the folder {path}; it has no checkpoints/best.ckpt")


def _newest(name: str) -> Path:
    runs = sorted(Path(RUNS).glob("*/checkpoints/*.ckpt"), key=lambda file: file.stat().st_mtime)
    found = runs[-1].with_name(f"{name}.ckpt") if runs else None
    if found is None or not found.is_file():
        raise InputError(
            f"no {name} checkpoint in the newest run of {Path(RUNS).absolute()}; train with "
            f"`vitlit fit` first, or give the path of a .ckpt file or a run folder"
        )
    return found


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's content, as plain values and tensors; nothing in it is executed."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not a checkpoint, or is cut short; give a .ckpt file")
    try:
        if damaged := zipfile.ZipFile(path).testzip():
            raise InputError(f"{path} is damaged in {damaged}; use another checkpoint")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for files that are not its own
        if isinstance(error, InputError):
            raise
        reason = str(error).strip().splitlines()[0]
        if "weights_only" in str(error) or "Weights only" in str(error):
            reason = "it holds more than tensors and plain values, which is never executed"
        raise InputError(f"cannot read {path} as a checkpoint: {reason[:200]}") from error
    parts = ("state_dict", MODEL, DATA)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), dict) for part in parts
    ):
        raise InputError(
            f"{path} is not a checkpoint of vitlit: it has no "
            f"state_dict, {MODEL} and {DATA}; give a file that `vitlit fit` wrote"
        )
    return content


def load(path: str | Path) -> Loaded:
    """The model of a checkpoint, for use from Python; ``path`` as in :func:`resolve`."""
    content = read(resolve(str(path)))
    arguments = content[MODEL]
    names = inspect.signature(ViT).parameters.keys() & arguments.keys()
    model = ViT(**{name: arguments[name] for name in names})
    prefix = "vit."
    model.load_state_dict(
        {
            key.removeprefix(prefix): value
            for key, value in content["state_dict"].items()
            if key.startswith(prefix)
        }
    )
    data = ImageData(**content[DATA])
    return Loaded(model.eval(), data.preprocess, data.class_names)
