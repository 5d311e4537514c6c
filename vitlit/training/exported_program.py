"""Programs of torch.export as frozen functions, read so that no file can run code of its own.

model.pt2 -> function of images (B, C, H, W) -> (B, K); its input size, normalisation, class names

torch.export.load warns against files of strangers: such a file may hold pickles, Python in its
expressions and names, and calls of any function of torch. All that is looked for here beforehand.
"""

import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass
from torch.export.pt2_archive import PT2ArchiveReader

from vitlit.errors import InputError, first_few
from vitlit.images.preprocess import Preprocess

FACTS_FILE = "metadata.json"  # as `export` writes it
PLAIN_ENTRY = re.compile(  # of an archive; others may hold pickles or compiled code
    r"data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json|extra/[^/]+"
    r"|archive_format|archive_version|byteorder|\.data/\w+"
)
# What a program may call: operations on tensors and, for their sizes, arithmetic.
PLAIN_TARGET = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge)"
)
# A size, which torch evaluates as Python: symbols, whole numbers and arithmetic, but no attribute.
SYMBOL = r"Symbol\('\w+'(, \w+=(True|False))*\)"
PLAIN_SIZE = re.compile(rf"({SYMBOL}|Integer|Add|Mul|Pow|FloorDiv|Mod|Max|Min|[-+*/(), \d])*")
PLAIN_NAME = re.compile(r"[\w.+-]*")  # of tensors and versions; torch writes them into Python code
PLAIN_TREE = re.compile(
    r'"type": (?!null|"builtins\.(tuple|list|dict)")|"context": (?!null|"(null|\[\])")'
)
UNREAD = ("metadata", "as_string")  # texts that name places in a source file, or stay texts
HOW_TO_EXPORT = (
    f'torch.export.save(program, FILE, extra_files={{"{FACTS_FILE}": json.dumps(FACTS)}}), where '
    f"FACTS has class_names, input_size [C, H, W], mean and std"
)


class ExportedProgram(NamedTuple):
    """A program, and what its user must know.

    on: gives the function of normalised images ``(B, C, H, W)`` for a device.
    """

    on: Callable[[torch.device], Callable[[Tensor], Tensor]]
    preprocess: Preprocess
    class_names: list[str]


def load_program(path: Path) -> ExportedProgram:
    """Read a .pt2 file as deploy.export writes it, or torch.export.save with the same facts.

    Raises InputError if it is damaged, could run code, or does not tell its input and its classes.
    """
    try:
        with PT2ArchiveReader(str(path)) as archive:
            _check_harmless(archive, path)
            facts = _read_facts(archive, path)
        with warnings.catch_warnings():  # torch 2.11 warns of its own way to read the file
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            program = torch.export.load(str(path))
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds for files that are not its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"cannot read {path} as a program of torch.export: {reason}; export it again with this "
            f"version of torch, {torch.__version__}"
        ) from error

    def on(device: torch.device) -> Callable[[Tensor], Tensor]:
        # the pass moves tensors that the program makes itself, too
        moved = program if device.type == "cpu" else move_to_device_pass(program, str(device))
        return moved.module().requires_grad_(False)

    channels, *size = facts["input_size"]
    told = (tuple(size), tuple(size), tuple(facts["mean"]), tuple(facts["std"]))
    return ExportedProgram(on, Preprocess(channels, *told), facts["class_names"])


def _check_harmless(archive: PT2ArchiveReader, path: Path) -> None:
    """Refuse an archive in which anything could be executed but operations on tensors."""
    names = archive.get_file_names()
    odd = [name for name in names if not PLAIN_ENTRY.fullmatch(name)]
    odd += sorted({name for name in names if names.count(name) > 1})
    for kind in ("weights", "constants"):
        content = json.loads(archive.read_bytes(f"data/{kind}/model_{kind}_config.json"))
        odd += [name for name, one in content["config"].items() if one["use_pickle"] is not False]
    model = json.loads(archive.read_bytes("models/model.json"))
    odd += list(_odd_texts(model))
    odd += model.get("guards_code") or []
    if odd:
        raise InputError(
            f"{path} holds more than operations on tensors, which is never executed: "
            f"{first_few(map(repr, odd), 3)}; export the model alone, without custom operations"
        )
    # torch would read it a second time, with pickles allowed, if this failed
    inputs = archive.read_bytes("data/sample_inputs/model.pt")
    if inputs:
        torch.load(io.BytesIO(inputs), map_location="cpu", weights_only=True)


def _odd_texts(content: Any, key: str = "") -> Iterator[str]:
    """The texts of a program that could be more than names, sizes and operations."""
    if isinstance(content, dict):
        for name, value in content.items():
            # keys too are names of tensors; null bytes and the like are in none
            if not PLAIN_NAME.fullmatch(name):
                yield name
            if name not in UNREAD:
                yield from _odd_texts(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _odd_texts(value, key)
    elif isinstance(content, str):
        rule = {"target": PLAIN_TARGET, "expr_str": PLAIN_SIZE}.get(key, PLAIN_NAME)
        is_tree = key in ("in_spec", "out_spec")
        if PLAIN_TREE.search(content) if is_tree else not rule.fullmatch(content):
            yield content


def _read_facts(archive: PT2ArchiveReader, path: Path) -> dict[str, Any]:
    """What the file tells about its input and its classes, checked."""
    if f"extra/{FACTS_FILE}" not in archive.get_file_names():
        raise InputError(
            f"{path} does not describe its classes and its input; save it with {HOW_TO_EXPORT}"
        )
    found = json.loads(archive.read_bytes(f"extra/{FACTS_FILE}"))
    facts: dict[str, Any] = {}
    for name in ("class_names", "input_size", "mean", "std"):
        value = found.get(name)
        facts[name] = json.loads(value) if isinstance(value, str) else value
    names, size = facts["class_names"], facts["input_size"]
    is_right = _are_all(names, str) and _are_all(size, int) and len(size) == 3
    for name in ("mean", "std"):
        is_right = is_right and _are_all(facts[name], int | float) and len(facts[name]) == size[0]
    if not is_right or size[0] not in (1, 3) or min(size) < 1 or min(facts["std"]) <= 0:
        raise InputError(
            f"{path} does not describe its classes or its input; save it with {HOW_TO_EXPORT}"
        )
    if not names:
        raise InputError(f"{path} has no classes: it gives features; export a model with a head")
    return facts


def _are_all(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)
