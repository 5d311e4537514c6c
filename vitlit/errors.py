"""Errors that a person can cause and mend."""

import traceback

SETTINGS_PACKAGES = ("pytorch_lightning", "lightning_fabric", "jsonargparse")


class InputError(ValueError):
    """Bad input: the message names the value, the rule it breaks and the way out.

    The command line prints the message alone and exits with status 2. Any other exception is a
    defect of the program and exits with status 1.
    """


def check_at_least(group: str, least: float, **values: float) -> None:
    """Refuse settings, options ``--group.name``, that are below ``least``."""
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name} {value} is too small; give --{group}.{name} {least} or more")


def advice(error: Exception) -> str | None:
    """What to tell a person about an error that their settings or machine caused, else None."""
    text = str(error).strip()
    if isinstance(error, InputError):
        return text
    if text.startswith("Error(s) in loading state_dict"):
        first = text.splitlines()[1].strip()
        return f"the checkpoint does not fit the model; leave out --model flags: {first}"
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return "not enough memory; make --data.batch_size, --data.img_size or the model smaller"
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}; check the path and its permissions"
    if type(error).__name__ == "MisconfigurationException":  # Lightning refuses a setting
        return text
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    is_setting = any(f"/{package}/" in last.replace("\\", "/") for package in SETTINGS_PACKAGES)
    if is_setting and isinstance(error, ValueError | TypeError | ImportError):
        return text
    return None
