"""What to tell a person about an error that their settings or machine caused.

exception -> one sentence with the way out, or None for a defect of the program"""

import traceback

from vitlit.errors import InputError, find_text, message_and_arguments
from vitlit.files import WRITE_FAULTS

# A ValueError, TypeError or ImportError raised by these is taken for a setting that they refuse.
SETTINGS_PACKAGES = ("pytorch_lightning", "lightning_fabric", "jsonargparse")


def class_path_reason(text: str) -> str:
    """The lines about a class that a config names, of the parser's long report on it."""
    lines = [line.strip(" -") for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if find_text("unknown class", line))
    return " ".join(lines[start : start + 3])


def advice(error: Exception) -> str | None:
    """The message for an error that settings or the machine caused; None for a defect.

    Errors of other libraries have no common type, so they are told by their texts.
    """
    if isinstance(error, InputError):
        return message_and_arguments(error)[0]
    text = str(error).strip()
    if find_text("other weights", text):
        first = text.splitlines()[1].strip()
        return f"the checkpoint does not fit the model; leave out --model flags: {first}"
    if isinstance(error, MemoryError) or find_text("no memory", text):
        return "not enough memory; make --data.batch_size, --data.img_size or the model smaller"
    if find_text("dead loading process", text):
        return (
            f"a process that loads images was killed, perhaps because memory ran out "
            f"({text.splitlines()[0][:120]}); give --data.num_workers 0"
        )
    if find_text("compiler module", type(error).__module__):
        return f"compiling failed: {text.splitlines()[0]}; give --model.compile false"
    if isinstance(error, OSError) and error.errno in WRITE_FAULTS:
        place = f"to {error.filename}" if error.filename else "all files"
        return f"cannot write {place}: {error.strerror}; free some space on the disk"
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}; check the path and its permissions"
    if find_text("slurm tasks", text):
        return (
            "SLURM has --ntasks without --ntasks-per-node; write --ntasks-per-node in the batch "
            "script, equal to --trainer.devices"
        )
    if missing := find_text("no accelerator", text):
        return (
            f"PyTorch finds no {missing[1].upper()} on this machine; leave out "
            f"--trainer.accelerator or give cpu, or install a PyTorch and a driver that support it"
        )
    if find_text("refused setting", type(error).__name__):
        return text
    if find_text("unknown class", text):
        return class_path_reason(text)
    # Where it was raised decides: a ValueError from our own code that is no InputError is a defect.
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    is_setting = any(f"/{package}/" in last.replace("\\", "/") for package in SETTINGS_PACKAGES)
    if is_setting and isinstance(error, ValueError | TypeError | ImportError):
        return text
    return None
