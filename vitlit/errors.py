"""Errors that a person can cause and mend."""

import signal
import traceback

from vitlit.foreign_texts import find_text

NOTE = "argument: "  # begins the line of a traceback with the arguments of its error
SETTINGS_PACKAGES = ("pytorch_lightning", "lightning_fabric", "jsonargparse")


class ArgumentsError(Exception):
    """An error that an argument caused, or that another value of it would mend.

    argument: its name in Python, such as ``patch_size``, or several; ``arguments`` is a tuple of
    them in any case. Messages speak of these names; the command line adds its options for them.
    """

    def __init__(self, message: str, *, argument: str | tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.arguments = (argument,) if isinstance(argument, str) else argument
        if self.arguments:  # of an error in a process that loads, torch passes on the text alone
            self.add_note(NOTE + ", ".join(self.arguments))


class InputError(ArgumentsError, ValueError):
    """Bad input: the message names the value, the rule it breaks and the way out.

    The command line prints the message with its options for the arguments, and exits with status
    2. Any other exception is a defect of the program and exits with status 1.
    """


class Stopped(BaseException):
    """A signal ended the training; its message says where, and what was saved.

    Not an Exception, so that nothing takes it for an error. ``status`` is the exit status: that of
    the signal, of SIGTERM for SIGUSR1, which asks for the same.
    """

    def __init__(self, signum: int, where: str, *, quiet: bool = False) -> None:
        name = signal.Signals(signum).name
        super().__init__(f"stopped by {name} {where}")
        self.status = 128 + (signal.SIGINT if name == "SIGINT" else signal.SIGTERM)
        self.quiet = quiet


class TrainingError(ArgumentsError, RuntimeError):
    """A training cannot go on, and no setting was wrong: exit status 1, and the message alone."""


class LostProcessError(TrainingError):
    """Another process of the training no longer answers; the message names it."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is not a number; the message says where."""


def class_path_reason(text: str) -> str:
    """Of a parser's report on a class named in a config, the lines about that class."""
    lines = [line.strip(" -") for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if find_text("unknown class", line))
    return " ".join(lines[start : start + 3])


def check_at_least(least: float, **values: float) -> None:
    """Refuse arguments, given by their names, that are below ``least``."""
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name} {value} is too small; give {least} or more", argument=name)


def check_below_one(**values: float) -> None:
    """Refuse shares and rates, given by their names, outside [0, 1)."""
    for name, value in values.items():
        if not 0.0 <= value < 1.0:
            raise InputError(f"{name} {value} is not in [0, 1); give another", argument=name)


def message_and_arguments(error: Exception) -> tuple[str, tuple[str, ...]]:
    """What an error says, and the arguments it names.

    One of a process that loads comes with its whole traceback as its text, and with no arguments:
    both are at the end of that.
    """
    text = str(error).strip()
    if not find_text("loading process", text):
        return text, error.arguments if isinstance(error, ArgumentsError) else ()
    message, _, names = text.rpartition("InputError: ")[2].partition(f"\n{NOTE}")
    return message, tuple(names.split(", ")) if names else ()


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
