"""What to tell a person about an error that their settings or machine caused.

exception -> one sentence with the way out, or None for a defect of the program"""

import traceback

from vitlit.errors import InputError, find_text, message_and_arguments

SETTINGS_PACKAGES = ("pytorch_lightning", "lightning_fabric", "jsonargparse")


def class_path_reason(text: str) -> str:
    """Of a parser's report on a class named in a config, the lines about that class."""
    lines = [line.strip(" -") for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if find_text("unknown class", line))
    return " ".join(lines[start : start + 3])


def advice(error: Exception) -> str | None:
    """What to tell a person about an error that their settings or machine caused, else None."""
    if isinstance(error, InputError):
        return message_and_arguments(error)[0]
    text = str(error).strip()
    if find_text("other weights", text):
        first = text.splitlines()[1].strip()
        return f"the checkpoint does not fit the model; leave out --model flags: {first}"
    if isinstance(error, MemoryError) or find_text("no memory", text):
        return "not enough memory; make --data.batch_size, --data.img_size or the model smaller"
    if find_text("compiler module", type(error).__module__):
        return f"compiling failed: {text.splitlines()[0]}; leave out --model.compile"
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}; check the path and its permissions"
    if find_text("slurm tasks", text):
        return (
            "SLURM has --ntasks without --ntasks-per-node; write --ntasks-per-node in the batch "
            "script, equal to --trainer.devices"
        )
    if find_text("refused setting", type(error).__name__):
        return text
    if find_text("unknown class", text):
        return class_path_reason(text)
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    is_setting = any(f"/{package}/" in last.replace("\\", "/") for package in SETTINGS_PACKAGES)
    if is_setting and isinstance(error, ValueError | TypeError | ImportError):
        return text
    return None
