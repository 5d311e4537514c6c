"""Reads files of weights safely; their kind is recognised by content, not by name.

path (.pth .pt .bin .ckpt .safetensors .npz, or any other ending) -> names and float32 tensors

Nothing in a file is executed: pickles are read with ``weights_only``, arrays without pickle.
"""

import argparse
import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitlit.errors import InputError, find_text, first_few
from vitlit.files import RUNS_FOLDER
from vitlit.weights import durable_file

WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")  # in a model folder, preferred first
WEIGHT_ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".npz", ".safetensors")
CONFIG_NAME, PROCESSOR_NAME = "config.json", "preprocessor_config.json"
HUB_NAME = re.compile(r"(hf[-_]hub:)?(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
# where training scripts keep the weights in their checkpoints; averages and teachers come first,
# as in timm's loader and in DINO's evaluation
WRAPPERS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model", "module", "student")
# the file holds other weights beside these, so the choice is told
TOLD_WRAPPERS = ("state_dict_ema", "model_ema", "teacher", "student")
FOREIGN_SIGNATURES = {  # first bytes of what is often found in place of weights
    b"version https://": "a git-lfs pointer, not the weights; run `git lfs pull`",
    b"<": "a web page, not weights; download it again from the link to the raw file",
}
NO_WEIGHT_FILE = "no weight file; give one of PyTorch (.pth), safetensors or NumPy (.npz)"


class Content(NamedTuple):
    """What a file holds: the dict of a checkpoint or state dict, and safetensors' metadata."""

    parts: dict[str, Any]
    metadata: dict[str, str]


def read_weight_file(path: Path) -> Content:
    """The content of a weight file, whose kind its first bytes tell.

    Raises InputError if it is damaged, no weight file, or holds more than tensors and plain values.
    """
    with path.open("rb") as file:
        start = file.read(16)
    try:
        # safetensors: eight bytes of length, then a header in JSON. It goes first, since the length
        # 19,280 reads "PK"; in a zip archive the ninth byte is the kind of compression
        if start[8:9] == b"{":
            return _read_safetensors(path)
        if start.startswith(b"PK"):
            return Content(_read_zip(path), {})
        if start.startswith(b"\x80"):  # a bare pickle: torch.save before 1.6; it cannot be mapped
            return Content(_read_torch(path, mmap=False), {})
    except InputError:
        raise
    except Exception as error:  # each reader raises many kinds for files that are not its own
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        if find_text("code in file", str(error)):
            reason = (
                "it holds more than tensors and plain values, which is never executed; if it is a "
                "whole model, save its weights with torch.save(model.state_dict(), FILE)"
            )
        if find_text("damaged safetensors", reason):
            reason = f"it is truncated or damaged ({reason}); download it again"
        raise InputError(f"cannot read {path} as weights: {reason}") from error
    if not start:
        raise InputError(f"{path} is empty; download it again")
    look = (text for mark, text in FOREIGN_SIGNATURES.items() if start.lstrip().startswith(mark))
    raise InputError(f"{path} is {next(look, NO_WEIGHT_FILE)}")


def _read_zip(path: Path) -> dict[str, Any]:
    """torch.save and numpy.savez both write zip archives; the names inside tell them apart."""
    has_sum = durable_file.check_durable(path)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is truncated; download it again")
    with zipfile.ZipFile(path) as archive:
        if damaged := not has_sum and archive.testzip():  # the name of the first damaged entry
            raise InputError(f"{path} is damaged in {damaged}; download it again")
        is_numpy = any(name.endswith(".npy") for name in archive.namelist())
    return _read_npz(path) if is_numpy else _read_torch(path, mmap=True)


def _read_torch(path: Path, *, mmap: bool) -> dict[str, Any]:
    # training scripts (DeiT, MAE, DINO, timm) keep their options in a Namespace of plain values
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: _to_tensor(archive[name]) for name in archive.files}


def _to_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    # NumPy has no bfloat16: JAX's is stored as raw data of two bytes
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _read_safetensors(path: Path) -> Content:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        # file.keys(): safe_open is no mapping and cannot be iterated
        return Content({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def unwrap(parts: dict[str, Any], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in a checkpoint's parts, as float32 tensors by name, and notes.

    parts: what the file holds, at any depth of wrappers. Raises InputError if it has no weights.
    """
    notes: list[str] = []
    for _ in range(4):  # wrappers at most: the dict of a hostile file may contain itself
        found = next((name for name in WRAPPERS if isinstance(parts.get(name), dict)), None)
        if found is None:
            break
        if found in TOLD_WRAPPERS:
            notes.append(f"of the checkpoint's parts, {found!r} is used")
        parts = parts[found]
    tensors = {
        name: value.float()
        for name, value in parts.items()
        if isinstance(name, str) and isinstance(value, Tensor) and is_dense(value)
    }
    if not tensors:
        raise InputError(f"{path} holds no weights; its parts are {first_few(parts)}")
    return tensors, notes


def is_dense(value: Tensor) -> bool:
    """Whether a tensor is floating-point, strided (not sparse) and has data (is not meta)."""
    return value.is_floating_point() and value.layout == torch.strided and not value.is_meta


def hub_name(source: str) -> re.Match[str] | None:
    """The parts of a name on the Hugging Face hub, ``repo`` and ``revision``; None for a path.

    A path with one slash looks like such a name, but is none in the folder of runs or by its end:
    models on the hub have no such endings.
    """
    is_path = source.startswith(f"{RUNS_FOLDER}/") or source.endswith(WEIGHT_ENDINGS)
    return None if is_path else HUB_NAME.fullmatch(source)


def download_weights(name: str) -> Path:
    """The local folder of a model on the Hugging Face hub, ``owner/model`` or with ``@revision``.

    Only the weights and their settings are fetched, through huggingface_hub and its cache. Raises
    InputError if the name is none of the hub's, or the hub cannot be reached.
    """
    match = hub_name(name)
    if match is None:
        raise InputError(
            f"no weights {name}; give a file, a folder, or a name on the Hugging Face hub "
            f"such as timm/vit_tiny_patch16_224.augreg_in21k"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError(
            f"{name} is not a file here, and the Hugging Face hub needs a package: "
            f"pip install 'vitlit[hub]'"
        ) from error
    try:
        for weights in WEIGHT_NAMES:  # the second only if the first does not exist: both are large
            wanted = [CONFIG_NAME, PROCESSOR_NAME, weights]
            folder = snapshot_download(
                match["repo"], revision=match["revision"], allow_patterns=wanted
            )
            if (Path(folder) / weights).is_file():
                break
    except Exception as error:  # the hub's own kinds, the network library's and OSError
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(
            f"{name} is not a file here and cannot be fetched from the Hugging Face hub; check the "
            f"name and the network: {reason}"
        ) from error
    return Path(folder)
