"""Checkpoints: finding the file, and reading it safely.

path | run folder | best | last -> file -> {state_dict, hyper_parameters, ...}

``durable_file`` writes them; ``load`` makes models of them.
"""

import zipfile
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vitlit.errors import InputError, did_you_mean, find_text, inform, warn
from vitlit.files import CHECKPOINTS_FOLDER, DEBUG_FILE, LAST_FILE, RUNS_FOLDER, expanded
from vitlit.model.low_rank import merge_adapters
from vitlit.weights import durable_file
from vitlit.weights.architecture import check_finite_weights
from vitlit.weights.file_reader import is_dense, sha256_of
from vitlit.weights.reshaping import Rotary

MODEL_KEY, DATA_KEY = "hyper_parameters", "datamodule_hyper_parameters"  # Lightning's keys
BASE_KEY = "base_weights"  # ours: what the training of adapters left as its file has it
STATES = ("state_dict", "current_model_state")  # the second only beside a moving average
TRAINING = "training_settings"  # our key, for the trainer's settings that decide the updates
# scores by which the best is chosen; each task has some of them
Monitor = Literal[
    "val/acc", "val/balanced_acc", "val/map", "val/f1", "val/mae", "val/rmse", "val/r2", "val/loss"
]
PRETRAINING_SETTING = "mask_ratio"  # of the model; only a pretraining has it
VERSION_KEY, LIGHTNING_VERSION = "pytorch-lightning_version", "2.6.6"
# Only what changes the updates or the choice of the best: devices, logging and folders may differ.
SAVED_SETTINGS = (
    "seed_everything",
    "ema.decay",
    "checkpoints.monitor",
    "early_stopping.patience",
    "early_stopping.min_delta",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.precision",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.limit_train_batches",
    "trainer.limit_val_batches",
    "trainer.val_check_interval",
    "trainer.check_val_every_n_epoch",
)


def resolve_checkpoint(path: str, root: Path | None = None, *, prefer: str = "best") -> Path:
    """The checkpoint file that ``path`` means; the one before it if last.ckpt is damaged.

    path: a file; a run folder (its checkpoint ``prefer``, else the other one); or ``best`` or
    ``last``, of the run folder ``root``, or else of the newest run in ./lightning_logs; a debug run
    counts only if there is no other. Raises InputError if there is no such checkpoint.
    """
    if path in ("best", "last"):
        return _find_in_newest_run(path) if root is None else _find_in_run(path, root)
    if "://" in path:  # Lightning would download it and unpickle whatever arrives
        raise InputError(f"{path} is a URL; download the checkpoint and give its path")
    if not path.strip():
        raise InputError(
            f"ckpt_path {path!r} names no checkpoint; give a .ckpt file, a run folder, best or "
            f"last, or leave it out",
            argument="ckpt_path",
        )
    found = expanded(path)
    if found.is_file():
        return newest_undamaged(found)
    if not found.is_dir():
        known = [one.name for one in found.parent.glob("*/") if one.is_dir()]
        raise InputError(
            f"no checkpoint {path}{did_you_mean(found.name, known)}; give a .ckpt file, a run "
            f"folder, best or last"
        )
    for name in ("best", "last") if prefer == "best" else ("last", "best"):
        for folder in (found / CHECKPOINTS_FOLDER, found):
            if file := find_checkpoint(folder, name):
                return file
    raise InputError(f"no checkpoint in the folder {path}; it has no checkpoints/best.ckpt")


def find_checkpoint(folder: Path, name: str) -> Path | None:
    """The checkpoint ``best`` or ``last`` in a folder of checkpoints; None if there is none."""
    file = folder / f"{name}.ckpt"
    has_older = file.name == LAST_FILE and durable_file.older_path(file).is_file()
    is_there = file.is_file() or has_older
    return newest_undamaged(file) if is_there else None


def newest_undamaged(file: Path) -> Path:
    """The file itself; of a damaged or missing last.ckpt the one before it, with a warning."""
    before = durable_file.older_path(file)
    if file.name != LAST_FILE or not before.is_file() or durable_file.is_intact(file):
        return file
    if not durable_file.is_intact(before):
        raise InputError(f"{file} and {before.name} are both damaged; use another checkpoint")
    warn(f"{file} is damaged or missing; the one before it, {before.name}, is used")
    return before


def _find_in_run(name: str, run: Path) -> Path:
    found = find_checkpoint(run / CHECKPOINTS_FOLDER, name)
    if found is None:
        raise InputError(
            f"no {name} checkpoint in the run {run}: with a run's name, {name} is its own; to go "
            f"on from another run, give that run's folder{_example()} or a .ckpt file",
            argument="ckpt_path",
        )
    return found


def _checkpoint_files() -> list[Path]:
    """The checkpoints of all runs, the newest last: runs have any name, so the time decides."""
    runs = ("*", "*/fold*", "*/repeat*")  # a series has its trainings in its folder
    found = (Path(RUNS_FOLDER).glob(f"{run}/{CHECKPOINTS_FOLDER}/*.ckpt") for run in runs)
    return sorted(chain.from_iterable(found), key=lambda file: file.stat().st_mtime)


def _example() -> str:
    """The folder of the newest run, as an example."""
    files = _checkpoint_files()
    return f", such as {files[-1].parents[1]}," if files else ""


def _find_in_newest_run(name: str) -> Path:
    files = _checkpoint_files()
    real = [file for file in files if not (file.parents[1] / DEBUG_FILE).exists()]
    if real and real[-1] != files[-1]:
        inform(f"{name} skips the debug run {files[-1].parents[1]}; to use it, give its folder")
    newest = (real or files)[-1:]
    if newest and (run := newest[0].parents[1]).parent != Path(RUNS_FOLDER):
        raise InputError(
            f"the newest run, {run}, is one of a series, so that {name} does not tell which is "
            f"meant; give the folder of one",
            argument="ckpt_path",
        )
    found = find_checkpoint(newest[0].parent, name) if newest else None
    if found is None:
        raise InputError(
            f"no {name} checkpoint in the newest run of {Path(RUNS_FOLDER).absolute()}; train a "
            f"model first, or give the path of a .ckpt file or a run folder",
            argument="ckpt_path",
        )
    return found


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint's content, as plain values and finite tensors; nothing in it is executed.

    Raises InputError if the file is damaged, is not a checkpoint of vitlit or holds NaN.
    """
    # mmap: what is not used, such as the optimiser's state, stays on the disk
    content = read_content(path, mmap=True)
    parts = ("state_dict", MODEL_KEY, DATA_KEY)
    if not all(isinstance(content.get(part), dict) for part in parts):
        raise InputError(
            f"{path} is not a checkpoint of vitlit: it has no "
            f"state_dict, {MODEL_KEY} and {DATA_KEY}; give a file that a training wrote"
        )
    for part in (MODEL_KEY, DATA_KEY):
        _check_plain(content[part], path)
    if BASE_KEY in content:
        _check_base(content[BASE_KEY], path)
    weights = content["state_dict"].items()
    # dense floats alone: meta tensors hold no numbers to look at
    check_finite_weights(
        {k: v for k, v in weights if isinstance(v, Tensor) and is_dense(v)}, str(path)
    )
    return content


def _check_base(record: Any, path: Path) -> None:
    """Refuse a record of base weights that no training wrote."""
    _check_plain(record, path)
    kinds = {"source": str, "file": str, "sha256": str, "given": dict, "unchanged": list}
    is_whole = isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in kinds.items()
    )
    rotary = record.get("rotary") if is_whole else None
    if not is_whole or not (rotary is None or (isinstance(rotary, list) and len(rotary) == 2)):
        raise InputError(f"{path} does not name its base weights; use another checkpoint")


def trained_precision(content: dict[str, Any]) -> str | None:
    """The precision that a checkpoint was trained in; None for older ones, which lack it."""
    kept = content.get(TRAINING)
    found = kept.get("trainer.precision") if isinstance(kept, dict) else None
    return str(found) if isinstance(found, str | int) else None


def is_plain_value(value: Any) -> bool:
    """Whether a value is one that a checkpoint keeps: a string, a number, a bool or None."""
    return isinstance(value, str | int | float | bool | None)


def training_settings_of(content: dict[str, Any]) -> dict[str, Any]:
    """The settings of the training that wrote a checkpoint; empty for checkpoints without any."""
    kept = content.get(TRAINING)
    if not isinstance(kept, dict):
        return {}
    # A file may hold anything: only known names with plain values become settings.
    return {
        name: kept[name] for name in SAVED_SETTINGS if name in kept and is_plain_value(kept[name])
    }


def read_content(path: Path, *, mmap: bool) -> dict[str, Any]:
    """mmap: leave tensors in the file until they are used."""
    try:
        _check_bytes(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many kinds for files that are not its own
        if isinstance(error, InputError | MemoryError):
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        # torch's own words would advise to load the file with weights_only=False
        if find_text("code in file", str(error)):
            reason = "it holds more than tensors and plain values, which is never executed"
        raise InputError(f"cannot read {path} as a checkpoint: {reason[:200]}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a checkpoint of vitlit: it holds no named parts")
    return content


def _check_bytes(path: Path) -> None:
    """Refuse a damaged file before anything interprets it."""
    if durable_file.check_durable(path):
        return
    # files of plain Lightning have no checksum, but the CRC that zip keeps of each entry
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not a checkpoint, or is truncated; give a .ckpt file")
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise InputError(f"{path} is damaged in {damaged}; use another checkpoint")
    _say_unsummed(path.resolve())


@cache
def _say_unsummed(path: Path) -> None:
    """Say it once for each file, however often it is read: the cache remembers the path."""
    inform(f"{path} has no checksum of its own, as is usual for files of other programs")


def _check_plain(value: Any, path: Path) -> None:
    """Refuse settings that are no plain values, or that name a class: none is ever imported."""
    if isinstance(value, dict):
        # jsonargparse imports and calls what stands at class_path
        if not all(isinstance(name, str) for name in value) or "class_path" in value:
            raise InputError(f"{path} has settings that name classes; use another checkpoint")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, path)
    elif not isinstance(value, str | int | float | bool | None):
        raise InputError(f"{path} has a {type(value).__name__} among its settings; use another")


def base_record(
    file: Path,
    arguments: dict[str, Any],
    rotary: Rotary | None,
    source: str,
    unchanged: list[str],
) -> dict[str, Any]:
    """What a checkpoint keeps in place of weights that a file holds, and a training leaves alone.

    file: of the weights, whose name is ``source``; arguments: of their model; rotary: the layout of
    rotary positions in the file; unchanged: the parameters that the file gives as they are.
    """
    return {
        "source": source,
        "file": str(file.absolute()),
        "sha256": sha256_of(file),
        # the file may go without its config.json
        "given": arguments,
        "rotary": None if rotary is None else list(rotary),
        "unchanged": unchanged,
    }


def merge_states(content: dict[str, Any]) -> None:
    """Merge the adapters in a checkpoint's content, in place, as a plain model needs it."""
    alpha = content[MODEL_KEY].get("lora_alpha")
    for name in STATES:
        if name in content:
            content[name] = merge_adapters(content[name], alpha)
